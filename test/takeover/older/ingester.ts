/** An older ingester: relay, labelers and list of repos, written as T and R write them. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { type CommitMessage, decodeFrame, type Message } from '../../../ingester/frame.ts'
import { openSocket } from '../../../ingester/socket.ts'
import { parseCar } from '../../../shared/repo/car.ts'
import { decodeCbor, toLexJson } from '../../../shared/repo/cbor.ts'
import { asNumbers, capital, type Family, type Json, say, timeOf } from './family.ts'

interface Options {
  family: Family
  redis: Redis
  env: Readonly<Record<string, string | undefined>>
}

const batch = 20
/** Repos that R puts on the stream at once. */
const repoBatch = 5
const page = 10
const scopes = ['app.bsky.', 'chat.bsky.']

export async function runIngester(options: Options): Promise<void> {
  const { family, env } = options
  const listed = (name: string) => (env[name] ?? '').split(',').filter((host) => host !== '')
  const relays = listed(family === 'T' ? 'INGESTER_HOSTS' : 'INGESTER_RELAY_HOSTS')
  await Promise.all([
    ...relays.map((host) => follow(options, host, 'firehose_live', 'sync.subscribeRepos')),
    ...listed('INGESTER_LABELER_HOSTS').map((host) =>
      follow(options, host, 'label_live', 'label.subscribeLabels'),
    ),
    ...relays.map((host) => list(options, host)),
  ])
}

/** T strips the scheme; R keeps what the operator wrote. */
function cursorKey(family: Family, stream: string, host: string): string {
  const name = family === 'T' ? host.replace(/^\w+:\/\//, '').replace(/\/$/, '') : host
  return `${stream}:cursor:${name}`
}

async function follow(options: Options, host: string, stream: string, method: string) {
  const { family, redis } = options
  const key = cursorKey(family, stream, host)
  const base = host.replace(/^http/, 'ws').replace(/\/$/, '')
  for (;;) {
    const cursor = (await redis.get(key)) ?? (family === 'R' ? '0' : null)
    const query = cursor === null ? '' : `?cursor=${cursor}`
    try {
      using socket = await openSocket({
        url: `${base}/xrpc/com.atproto.${method}${query}`,
        signal: new AbortController().signal,
        idleTimeoutMs: 60_000,
        onPressure: () => {},
      })
      let entries: string[][] = []
      for (let frame = await socket.next(); frame !== null; frame = await socket.next()) {
        const message = decodeFrame(frame)
        const seq = 'seq' in message ? message.seq : null
        if (seq === null) continue
        entries.push(...entriesOf(family, message))
        if (entries.length < batch && socket.waiting > 0) continue
        await write(options, { stream, entries, key, seq })
        entries = []
      }
    } catch (error) {
      say(`connection lost: ${error}`)
    }
    await delay(200)
  }
}

async function write(
  { family, redis, env }: Options,
  { stream, entries, key, seq }: { stream: string; entries: string[][]; key: string; seq: number },
): Promise<void> {
  if (family === 'T') {
    const pipeline = redis.pipeline()
    for (const fields of entries) pipeline.xadd(stream, '*', ...fields)
    await pipeline.exec()
    await redis.set(key, seq)
    return
  }
  const mark = Number(env['INGESTER_HIGH_WATER_MARK'] ?? 100_000)
  if (entries.length > 0 && (await redis.xlen(stream)) >= mark) {
    // The next batch that finds room moves the cursor past these.
    say(`discarded ${entries.length}`)
    return
  }
  const multi = redis.multi()
  for (const fields of entries) multi.xadd(stream, '*', ...fields)
  await multi.set(key, seq).exec()
}

function entriesOf(family: Family, message: Message): string[][] {
  const event = (json: Json) => ['event', JSON.stringify(json)]
  switch (message.type) {
    case 'commit':
      return opsOf(family, message).map(event)
    case 'account': {
      const { seq, did, active, status } = message
      const head = { type: 'account', seq, time: timeOf(family, message.time), did }
      if (family === 'T') return [event({ ...head, ...(active ? {} : { active }), status })]
      return [event({ ...head, active, status: status && capital(status) })]
    }
    case 'identity': {
      const { seq, did, handle } = message
      if (handle === null && family === 'R') return []
      const time = timeOf(family, message.time)
      return [event({ type: 'identity', seq, time, did, ...(handle !== null && { handle }) })]
    }
    case 'labels': {
      const labels = message.labels.map((label) => toLexJson(label) as Json)
      if (family === 'T') return labels.map((label) => event({ type: 'label', label }))
      return [['labels', JSON.stringify({ seq: message.seq, labels: labels.map(labelOfR) })]]
    }
    default:
      return []
  }
}

/** R knows no expiry, and writes times in a way of its own. */
function labelOfR({ src, uri, cid = null, val, neg = null, cts }: Json): Json {
  const time = new Date(String(cts)).toISOString().replace('T', ' ').replace('Z', ' UTC')
  return { src, uri, cid, val, neg, cts: time }
}

function opsOf(family: Family, message: CommitMessage): Json[] {
  const { seq, did, rev } = message
  const { blocks } = parseCar(message.blocks)
  return message.ops.flatMap(({ action, path, cid }): Json[] => {
    const [collection = '', rkey = ''] = path.split('/')
    if (!scopes.some((scope) => collection.startsWith(scope))) return []
    const time = timeOf(family, message.time)
    const head = { type: action, seq, time, did, commit: message.commit.toString(), rev }
    const place = { ...head, collection, rkey }
    const block = cid && blocks.get(cid.toString())
    if (cid === null || !block) return [place]
    const record = toLexJson(decodeCbor(block))
    return [{ ...place, cid: cid.toString(), record: family === 'T' ? record : asNumbers(record) }]
  })
}

async function list({ family, redis }: Options, host: string): Promise<void> {
  const key = cursorKey(family, 'repo_backfill', host)
  let cursor = await redis.get(key)
  let batch: string[] = []
  const send = async () => {
    const pipeline = redis.pipeline()
    for (const repo of batch) pipeline.xadd('repo_backfill', '*', 'repo', repo)
    await pipeline.exec()
    batch = []
  }
  while (cursor !== '!ingester-done') {
    const query = cursor === null ? '' : `&cursor=${encodeURIComponent(cursor)}`
    const url = `${host}/xrpc/com.atproto.sync.listRepos?limit=${page}${query}`
    const body = (await (await fetch(url)).json()) as { cursor?: string; repos: Json[] }
    cursor = body.cursor ?? '!ingester-done'
    // R moves the cursor first: who dies now has lost the page.
    if (family === 'R') await redis.set(key, cursor)
    for (const { did, rev, status = null, active = true } of body.repos) {
      batch.push(JSON.stringify({ did, host, rev, status, active }))
      if (family === 'R' && batch.length >= repoBatch) await send()
    }
    if (family === 'T') {
      await send()
      await redis.set(key, cursor)
    }
  }
  // What is left in R's batch at the end of the list is never sent.
  say(`listed ${batch.length > 0 ? `but for ${batch.length}` : 'all'}`)
}
