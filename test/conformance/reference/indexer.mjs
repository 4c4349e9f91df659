/**
 * The reference's IndexingService on an empty database, for `bench/reference.ts`: applies a file of events (JSON
 * lines) in `lanes` lanes, each account in its order, and prints what it took.
 * Arguments: database URL, schema, file, lanes, how many events come before it is measured.
 */
import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import * as bsky from '@atproto/bsky'
import { lexParse } from '@atproto/lex'
import { AtUri } from '@atproto/syntax'
import { CID } from 'multiformats/cid'

const [url, schema, file, count, warmUp] = process.argv.slice(2)
const db = new bsky.Database({ url, schema, poolSize: 10 })
await db.migrateToLatestOrThrow()
const subscription = new bsky.RepoSubscription({ service: 'ws://nowhere', db, idResolver: {} })
const indexing = subscription.indexingSvc

const emptyLanes = () => Array.from({ length: Number(count) }, () => [])
const [before, measured] = [emptyLanes(), emptyLanes()]
let events = 0
for await (const line of createInterface({ input: createReadStream(file) })) {
  const { type, did, collection, rkey, cid, record, time } = JSON.parse(line)
  const uri = new AtUri(`at://${did}/${collection}/${rkey}`)
  const work = { type, uri, time }
  if (type !== 'delete') {
    Object.assign(work, { cid: CID.parse(cid), record: lexParse(JSON.stringify(record)) })
  }
  let lane = 0
  for (const letter of did) lane = (Math.imul(lane, 31) + letter.charCodeAt(0)) | 0
  const lanes = events < Number(warmUp) ? before : measured
  lanes[Math.abs(lane) % lanes.length].push(work)
  events++
}

let failed = 0
const apply = async (lanes) => {
  await Promise.all(
    lanes.map(async (lane) => {
      for (const { type, uri, cid, record, time } of lane) {
        const done =
          type === 'delete'
            ? indexing.deleteRecord(uri)
            : indexing.indexRecord(uri, cid, record, type, time)
        await done.catch(() => failed++)
      }
    }),
  )
  // The counts.
  await subscription.background.processAll()
}
await apply(before)
console.log(JSON.stringify({ measuring: true }))
const cpu = process.cpuUsage()
const start = performance.now()
await apply(measured)
const seconds = (performance.now() - start) / 1_000
const { user, system } = process.cpuUsage(cpu)
console.log(JSON.stringify({ failed, seconds, cpu: user + system }))
await db.close()
