/** What stands on a Redis that other workers use: streams with their groups and consumers, cursors. */
import type { Redis } from 'ioredis'
import { consumerKey, cursorHost } from './names.ts'
import { script } from './script.ts'
import { compareDecimals, readState } from './state.ts'

const phantoms = script('phantoms.lua')

export interface SurveyedConsumer {
  name: string
  pending: number
  idleMs: number
  /** The last who had this name was one of ours. */
  ours: boolean
}

export interface SurveyedGroup {
  name: string
  pending: number
  lag: number | null
  /** Pending entries whose payload is gone. */
  phantoms: number
  consumers: readonly SurveyedConsumer[]
}

export interface SurveyedStream {
  stream: string
  length: number
  groups: readonly SurveyedGroup[]
}

/** A host's position, under every spelling that is there. */
export interface SurveyedCursor {
  stream: string
  host: string
  keys: readonly { key: string; value: string }[]
  /** The one that ours resume after: the highest number, or what the list's key holds. */
  value: string
}

/** Who gave no sign for so long is not at work. */
const activeMs = 60_000
/** A page of pending entries that are looked at for their payload in one step. */
const phantomPage = 1_000

/** Whether the consumer has asked for entries within the last minute. */
export function isAtWork({ idleMs }: Pick<SurveyedConsumer, 'idleMs'>): boolean {
  return idleMs < activeMs
}

/** The stream as it is; one that is not there has no groups. */
export async function surveyStream(redis: Redis, stream: string): Promise<SurveyedStream> {
  const { length, groups } = await readState(redis, stream)
  const surveyed: SurveyedGroup[] = []
  for (const { name, pending, lag } of groups) {
    const consumers = await surveyConsumers(redis, stream, name)
    surveyed.push({
      name,
      pending,
      lag,
      phantoms: await countPhantoms(redis, stream, name),
      consumers,
    })
  }
  return { stream, length, groups: surveyed }
}

export async function surveyConsumers(
  redis: Redis,
  stream: string,
  group: string,
): Promise<SurveyedConsumer[]> {
  const reply = (await redis.xinfo('CONSUMERS', stream, group)) as (string | number)[][]
  const consumers = reply.map((flat) => {
    const field = (name: string) => flat[flat.indexOf(name) + 1]
    const name = String(field('name'))
    return { name, pending: Number(field('pending')), idleMs: Number(field('idle')) }
  })
  const marks = consumers.map(({ name }) => redis.exists(consumerKey(stream, group, name)))
  const ours = await Promise.all(marks)
  return consumers.map((consumer, at) => ({ ...consumer, ours: ours[at] === 1 }))
}

async function countPhantoms(redis: Redis, stream: string, group: string): Promise<number> {
  let count = 0
  for (let after = ''; ; ) {
    const reply = await phantoms(redis, [stream], [group, after, phantomPage])
    const [last, , gone] = reply as [string, number, number]
    count += gone
    if (last === '') return count
    after = last
  }
}

/** The positions of a stream's sources, one for each host. */
export async function surveyCursors(redis: Redis, stream: string): Promise<SurveyedCursor[]> {
  const prefix = `${stream}:cursor:`
  const found = new Map<string, { key: string; value: string }[]>()
  for await (const keys of redis.scanStream({ match: `${prefix}*`, count: 1_000 })) {
    for (const key of new Set(keys as string[])) {
      const value = await redis.get(key)
      if (value === null) continue
      const host = cursorHost(key.slice(prefix.length))
      const others = found.get(host) ?? []
      if (!others.some((other) => other.key === key)) found.set(host, [...others, { key, value }])
    }
  }
  return [...found].map(([host, keys]) => {
    const sorted = keys.sort((a, b) => (a.key < b.key ? -1 : 1))
    const numbers = sorted.map(({ value }) => value).filter((value) => /^\d+$/.test(value))
    const highest = numbers.sort(compareDecimals).at(-1)
    return { stream, host, keys: sorted, value: highest ?? sorted[0]?.value ?? '' }
  })
}
