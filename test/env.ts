/** The test run's environment: the only place where tests read it. */
// biome-ignore lint/style/noProcessEnv: one place reads it, tests take it from here.
export const env: Readonly<Record<string, string | undefined>> = process.env
