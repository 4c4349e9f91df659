/** What a source sent and nobody can read, set aside with its bytes and its reason. */
import type { Redis } from 'ioredis'
import { crashPoint } from '../shared/crash-point.ts'
import { errorText } from '../shared/errors.ts'
import type { Logger } from '../shared/log.ts'
import { throughOutages } from '../shared/redis.ts'
import { sleep } from '../shared/retry.ts'
import { deadLetterStream } from '../shared/streams/names.ts'

/** Of larger frames the beginning is kept. */
const maxBytes = 64 * 1024
const fullPollMs = 5_000

export interface DeadLetters {
  /**
   * Resolves when it is in Redis. While the dead-letter stream is full it waits, and with it the
   * source: nothing is trimmed unasked. When the signal aborts it may not have been written; it
   * then resolves, or throws the signal's reason.
   */
  write(fields: Readonly<Record<string, string>>): Promise<void>
}

export function createDeadLetters(options: {
  redis: Redis
  /** The stream whose dead letters these are. */
  stream: string
  maxLength: number
  signal: AbortSignal
  log: Logger
}): DeadLetters {
  const { redis, maxLength, signal, log } = options
  const stream = deadLetterStream(options.stream)
  // What ioredis throws while Redis is away has no code that the verdict knows.
  const retry = <T>(call: () => Promise<T>) => {
    let told: string | null = null
    return throughOutages(call, signal, (reason) => {
      if (told !== reason) log.warn({ stream, reason }, 'a dead letter must wait')
      told = reason
    })
  }
  return {
    async write(fields) {
      while (!signal.aborted && (await retry(() => redis.xlen(stream))) >= maxLength) {
        log.error({ stream, maxLength }, 'the dead-letter stream is full: reading has stopped')
        await sleep(fullPollMs, signal)
      }
      if (signal.aborted) return
      const all = { ...fields, stream: options.stream, failed_at: new Date().toISOString() }
      crashPoint('ingester.before-dead-letter')
      await retry(() => redis.xadd(stream, '*', ...Object.entries(all).flat()))
      crashPoint('ingester.dead-lettered')
    },
  }
}

/** The fields of a frame that could not be decoded. */
export function frameFields(frame: Uint8Array, error: unknown): Record<string, string> {
  return {
    reason: 'frame',
    error: errorText(error),
    frame: Buffer.from(frame.subarray(0, maxBytes)).toString('base64'),
    bytes: String(frame.length),
  }
}
