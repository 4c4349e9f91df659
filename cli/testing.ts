/** The `sluice` command, for tests. */
import { run } from './sluice.ts'

export interface Run {
  code: number
  out: string
  err: string
}

/** Runs one command line in this process and this environment alone: a process each takes seconds. */
export async function sluice(
  args: readonly string[],
  env: Record<string, string | undefined>,
  signal = new AbortController().signal,
): Promise<Run> {
  const written = { out: '', err: '' }
  const sink = (name: 'out' | 'err') => ({
    write: (text: string) => {
      written[name] += text
    },
  })
  const code = await run(args, { env, out: sink('out'), err: sink('err'), signal })
  return { code, ...written }
}
