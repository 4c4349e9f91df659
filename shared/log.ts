/** The log: one JSON line per decision, with fixed fields and never a credential. */
import { type DestinationStream, type Logger, pino } from 'pino'
import { errorFields } from './errors.ts'

export type { Logger }

/** A logger whose lines carry the service's name; `destination` is standard output unless given. */
export function createLog(service: string, level: string, destination?: DestinationStream): Logger {
  const options = {
    level,
    base: { service },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    serializers: { err: errorFields },
  }
  // Written at once: pino's own default waits for ever in a fatal line when the reader is gone.
  return pino(options, destination ?? pino.destination({ dest: 1, sync: true }))
}
