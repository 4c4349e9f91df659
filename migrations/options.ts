/** The settings of `npm run migrate`. */
import { type Options, workerOptions } from '../shared/config.ts'
import { postgresOptions } from '../shared/postgres.ts'

export const options = {
  logLevel: workerOptions.logLevel,
  ...postgresOptions,
} as const satisfies Options
