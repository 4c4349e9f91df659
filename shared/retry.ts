/** Waiting and trying again. */
import { verdict } from './errors.ts'

/** Waits that many milliseconds, or less when the signal aborts; it never throws. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  if (signal?.aborted) return Promise.resolve()
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal?.addEventListener('abort', done, { once: true })
  })
}

/** How long to wait before try number `attempt` (from 1): doubling, capped, with half of it random. */
export function backoff(attempt: number, { initialMs = 100, maxMs = 10_000 } = {}): number {
  const full = Math.min(maxMs, initialMs * 2 ** Math.min(attempt - 1, 30))
  return full / 2 + (Math.random() * full) / 2
}

export interface RetryOptions {
  signal: AbortSignal
  initialMs?: number
  maxMs?: number
  onRetry?: (error: unknown, attempt: number, waitMs: number) => void
}

/**
 * Calls until it succeeds, waiting longer after each failure whose verdict is `retry`. Any other
 * failure is thrown at once, and so is the last one when the signal aborts.
 */
export async function retryTransient<T>(call: () => Promise<T>, options: RetryOptions): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await call()
    } catch (error) {
      if (verdict(error) !== 'retry' || options.signal.aborted) throw error
      const waitMs = backoff(attempt, options)
      options.onRetry?.(error, attempt, waitMs)
      await sleep(waitMs, options.signal)
    }
  }
}
