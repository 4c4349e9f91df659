/** Requests for whole repos: the one place that decides on which stream they go. */
import type { Redis } from 'ioredis'
import { type BackfillRequest, encodeRequest } from '../events.ts'
import { firstStream, streams } from './names.ts'

/** As many requests may wait before others that are in more of a hurry: some seconds of work. */
export const shortQueue = 1_000

/**
 * The stream on which requests for this reason are to go. Everything goes on the one that older
 * workers read too; but where the bulk list has made that long, what somebody waits for goes on
 * another, which our backfillers read first.
 */
export async function requestStream(
  redis: Redis,
  reason: BackfillRequest['reason'],
  stream: string = streams.requests,
): Promise<string> {
  if (reason !== 'manual' && reason !== 'resync') return stream
  return (await redis.xlen(stream)) > shortQueue ? firstStream(stream) : stream
}

/** Asks for these repos; resolves when the requests are on their stream. */
export async function requestRepos(
  redis: Redis,
  requests: readonly BackfillRequest[],
): Promise<void> {
  const pipeline = redis.pipeline()
  const streamOf = new Map<BackfillRequest['reason'], string>()
  for (const { reason } of requests) {
    if (!streamOf.has(reason)) streamOf.set(reason, await requestStream(redis, reason))
  }
  for (const request of requests) {
    const stream = streamOf.get(request.reason) ?? streams.requests
    pipeline.xadd(stream, '*', ...encodeRequest(request))
  }
  for (const [error] of (await pipeline.exec()) ?? []) if (error !== null) throw error
}
