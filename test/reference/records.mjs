/**
 * What the AppView's own indexer makes of records, each alone in an empty database:
 * `node records.mjs <url> <schema> <file.jsonl>…` prints a line for each record. Rows are told by
 * their hash alone, so that nothing of what people wrote leaves the file that it stands in.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { lexParse, parseCid } from '@atproto/lex'
import { AtUri } from '@atproto/syntax'
import { Database } from '@atproto/bsky'
import { BackgroundQueue } from './node_modules/@atproto/bsky/dist/data-plane/server/background.js'
import { IndexingService } from './node_modules/@atproto/bsky/dist/data-plane/server/indexing/index.js'

const [url, schema, ...files] = process.argv.slice(2)
const { indexedAt, keys, rowsQuery } = JSON.parse(process.env.RECORDS_SPEC)
const database = new Database({ url, schema, poolSize: 2 })
const indexing = new IndexingService(database, null, new BackgroundQueue(database))

for (const file of files) {
  for (const line of readFileSync(file, 'utf8').split('\n')) {
    if (line !== '') console.log(JSON.stringify(await expectationOf(JSON.parse(line))))
  }
}
await database.close()

async function expectationOf({ did, path, cid, record }) {
  const uri = `at://${did}/${path}`
  let error = null
  try {
    const value = lexParse(JSON.stringify(record))
    await indexing.indexRecord(new AtUri(uri), parseCid(cid), value, 'create', indexedAt)
  } catch (thrown) {
    error = thrown.constructor.name
  }
  const { rows } = await database.pool.query(rowsQuery, [uri])
  for (const table of Object.keys(keys)) await database.pool.query(`delete from ${schema}."${table}"`)
  const hashed = rows.map(({ table, row }) => `${table} ${hash(row)}`)
  return { key: hash(`${uri} ${cid}`), error, rows: hashed.sort() }
}

function hash(text) {
  return createHash('sha256').update(text).digest('hex').slice(0, 16)
}
