/** Whether a position is ever ahead of the stream, seen from beside. */
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { expect } from 'vitest'
import { redisPlace } from '../../shared/redis.ts'
import { resyncsKey, streams } from '../../shared/streams/names.ts'
import { compareIds } from '../../shared/streams/state.ts'
import { readFrame } from '../../simulator/frames.ts'
import type { Relay } from '../../simulator/relay.ts'
import { nameOf, namesOf, parse } from './told.ts'

const stream = streams.live
const sampleEveryMs = 15

/** Looks again and again, at positions and stream at one moment, whether what a position covers is there. */
export function startSampler(
  redisUrl: string,
  relays: readonly Relay[],
  keyOf: (relay: Relay) => string,
) {
  const { href, place } = redisPlace(redisUrl)
  const redis = new Redis(href, {
    ...{ ...place, protocol: 2, retryStrategy: () => 20, commandTimeout: 1_000 },
  })
  redis.on('error', () => {})
  const followed = relays.map(createFollowed)
  const present = new Set<string>()
  let last = '0-0'
  let samples = 0
  let stopped = false
  let broken: string | null = null

  const sample = async () => {
    const transaction = redis.multi().xinfo('STREAM', stream).xrange(stream, `(${last}`, '+')
    transaction.hkeys(resyncsKey)
    for (const relay of relays) transaction.get(keyOf(relay))
    const replies = await transaction.exec().catch(() => null)
    const [info, entries, resyncs, ...cursors] = replies?.map(([, reply]) => reply) ?? []
    if (!Array.isArray(info) || !Array.isArray(entries)) return
    if (compareIds(String(info[info.indexOf('last-generated-id') + 1]), last) < 0) {
      // Redis has gone back: what it holds now is looked at from its beginning.
      last = '0-0'
      present.clear()
      for (const each of followed) each.again()
      return
    }
    for (const [id, fields] of entries as [string, string[]][]) {
      const event = parse(fields)
      present.add(nameOf(event))
      last = id
    }
    const restored = new Set(resyncs as string[])
    const isLacking = (name: string) =>
      !present.has(name) && !restored.has(name.split(' ')[0] ?? '')
    for (const [index, each] of followed.entries()) {
      const seq = Number(cursors[index] ?? 0)
      const lacking = each.upTo(seq).find(isLacking)
      if (lacking !== undefined) broken ??= `position ${seq} without ${lacking}`
    }
    samples += 1
  }
  const looking = (async () => {
    while (!stopped) {
      await sample()
      await delay(sampleEveryMs)
    }
  })()
  const end = async () => {
    stopped = true
    await looking
    redis.disconnect()
  }
  return {
    /** Throws when a position was ever ahead. */
    async stop() {
      if (!stopped) await sample()
      await end()
      expect(broken).toBe(null)
      expect(samples).toBeGreaterThan(3)
    },
    [Symbol.asyncDispose]: end,
  }
}

/** What a relay has sent, by position. */
function createFollowed(relay: Relay) {
  let at = 0
  const names: { seq: number; name: string }[] = []
  let next = 0
  const readOn = () => {
    const frames = relay.frames()
    for (; at < frames.length; at += 1) {
      const { header, body } = readFrame(frames[at] ?? new Uint8Array()) ?? { header: {}, body: {} }
      for (const name of namesOf(String(header['t']), body)) {
        names.push({ seq: Number(body['seq']), name })
      }
    }
  }
  return {
    /** The events that a position covers and that were not asked for yet. */
    upTo(seq: number): string[] {
      readOn()
      const found: string[] = []
      for (let entry = names[next]; entry && entry.seq <= seq; entry = names[++next]) {
        found.push(entry.name)
      }
      return found
    },
    again() {
      next = 0
    },
  }
}
