/** An older backfiller: whole repos, written as T and R write them. */
import type { Redis } from 'ioredis'
import type { Identity } from '../../../shared/identity.ts'
import { parseCar } from '../../../shared/repo/car.ts'
import { decodeCbor, type IpldMap, toLexJson } from '../../../shared/repo/cbor.ts'
import type { Cid } from '../../../shared/repo/cid.ts'
import { walk } from '../../../shared/repo/mst.ts'
import { asNumbers, backfillSeq, type Family, type Json, say, timeOf } from './family.ts'
import { type Entry, readGroup } from './group.ts'

interface Options {
  family: Family
  redis: Redis
  name: string
  identity: Identity
}

const stream = 'repo_backfill'
const group = 'repo_backfill_group'
const chunk = 10
const tries = 3

export async function runBackfiller(options: Options): Promise<void> {
  const { family, redis, name } = options
  await readGroup({ family, redis, stream, group, name, count: 2 }, async (entries) => {
    for (const entry of entries) await request(options, entry)
  })
}

async function request(options: Options, { fields }: Entry): Promise<void> {
  const { redis } = options
  const repo = fields[fields.indexOf('repo') + 1] ?? '{}'
  const { did } = JSON.parse(repo) as { did: string }
  for (let attempt = 1; ; attempt += 1) {
    try {
      await backfill(options, did)
      say(`repo ${did}`)
      return
    } catch (error) {
      if (attempt < tries) continue
      const letter = ['repo', repo, 'reason', String(error), 'attempts', String(attempt)]
      await redis.xadd('repo_backfill_dlq', '*', ...letter)
      return
    }
  }
}

async function backfill({ family, redis, identity }: Options, did: string): Promise<void> {
  const { pds } = await identity.resolve(did)
  const response = await fetch(`${pds}/xrpc/com.atproto.sync.getRepo?did=${did}`)
  if (!response.ok) throw new Error(`status ${response.status}`)
  const { roots, blocks } = parseCar(new Uint8Array(await response.arrayBuffer()))
  const commit = String(roots[0])
  const { data, rev } = decodeCbor(blocks.get(commit) ?? new Uint8Array()) as IpldMap
  const seq = backfillSeq[family]
  const head = () => ({ seq, time: timeOf(family, new Date().toISOString()), did, commit, rev })
  const add = (json: Json) => redis.xadd('firehose_backfill', '*', 'event', JSON.stringify(json))
  const end = () => {
    const { seq, ...rest } = head()
    return add({ type: 'repo', ...(family === 'R' && { seq }), ...rest })
  }
  let count = 0
  for (const { key, cid } of walk(data as Cid, blocks)) {
    const [collection = '', rkey = ''] = key.split('/')
    if (!collection.startsWith('app.bsky.') && !collection.startsWith('chat.bsky.')) continue
    const record = toLexJson(decodeCbor(blocks.get(cid.toString()) ?? new Uint8Array()))
    // R has both forms here.
    const form = family === 'R' && count % 2 === 1 ? asNumbers(record) : record
    const place = { collection, rkey, cid: cid.toString(), record: form }
    await add({ type: 'create', ...head(), ...place })
    count += 1
    if (family === 'R' && count % chunk === 0) await end()
  }
  await end()
}
