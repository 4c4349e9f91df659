/** Requests for whole repos: the one place that decides on which stream they go. */
import type { Redis } from 'ioredis'
import { type BackfillRequest, encodeRequest } from '../events.ts'
import { streams } from './names.ts'

/** The stream on which a request for this reason is to go. */
export function requestStream(_reason: BackfillRequest['reason']): string {
  return streams.requests
}

/** Asks for these repos; resolves when the requests are on their stream. */
export async function requestRepos(
  redis: Redis,
  requests: readonly BackfillRequest[],
): Promise<void> {
  const pipeline = redis.pipeline()
  for (const request of requests) {
    pipeline.xadd(requestStream(request.reason), '*', ...encodeRequest(request))
  }
  for (const [error] of (await pipeline.exec()) ?? []) if (error !== null) throw error
}
