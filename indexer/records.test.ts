/** Odd records, 165 real ones and others made up, become what the reference's own indexer makes of them. */
import { hash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { decodeEvent, type PutEvent } from '../shared/events.ts'
import { parseCid } from '../shared/repo/cid.ts'
import { sharedJsonLines } from '../test/data.ts'
import {
  type Expectation,
  expectedFile,
  indexedAt,
  madeFile,
  rowsQuery,
} from '../test/reference-records.ts'
import { aRecord, type TestIndexer, tables, testIndexer } from './testing.ts'

interface Mined {
  did: string
  path: string
  cid: string
  record: Record<string, unknown>
}

const lines = <T>(file: URL): T[] =>
  readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line))

const odd = sharedJsonLines<Mined>('records/mined/odd.jsonl')
const made = lines<Mined>(madeFile)
const expected = lines<Expectation>(expectedFile)

let indexer: TestIndexer
beforeAll(async () => {
  indexer = await testIndexer()
})
afterAll(() => indexer[Symbol.asyncDispose]())

const short = (text: string) => hash('sha256', text, 'hex').slice(0, 16)

function eventOf({ did, path, cid, record }: Mined): PutEvent {
  const [collection = '', rkey = ''] = path.split('/')
  const event = aRecord(collection, {}, { by: did, rev: 1, rkey, time: indexedAt })
  return { ...event, cid, record }
}

/** What ours makes of one record alone. */
async function madeOf(mined: Mined) {
  const uri = `at://${mined.did}/${mined.path}`
  const { outcomes } = await indexer.apply([eventOf(mined)])
  const rows = await indexer.sql.unsafe(rowsQuery('bsky'), [uri])
  await indexer.sql.unsafe(tables.map((name) => `delete from "${name}"`).join(';'))
  const hashed = rows.map(({ table, row }) => `${table} ${short(row)}`).sort()
  return { key: short(`${uri} ${mined.cid}`), rows: hashed, refused: outcomes[0] !== 'applied' }
}

test('the expectations are of these records, in this order', () => {
  expect(odd).toHaveLength(165)
  const known = [...odd, ...made].map(({ did, path, cid }) => short(`at://${did}/${path} ${cid}`))
  expect(expected.map(({ key }) => key)).toEqual(known)
})

test('each has the rows of the reference, byte for byte, or none', {
  timeout: 60_000,
}, async () => {
  const different: string[] = []
  for (const [index, mined] of [...odd, ...made].entries()) {
    const { error, rows } = expected[index] as Expectation
    const ours = await madeOf(mined)
    const same = JSON.stringify(ours.rows) === JSON.stringify(rows)
    if (!same || ours.refused !== (rows.length === 0)) {
      different.push(`${index} ${mined.path} ${error} ${rows} | ${ours.refused} ${ours.rows}`)
    }
  }
  expect(different).toEqual([])
})

test('each comes back as it was from the byte arrays that the Rust workers made of links', () => {
  for (const mined of [...odd, ...made]) {
    const event = eventOf(mined)
    const rust = { ...event, record: withByteArrays(mined.record) }
    const healed = decodeEvent(['event', JSON.stringify(rust)]) as PutEvent
    expect(JSON.stringify(healed.record)).toBe(JSON.stringify(mined.record))
  }
})

/** As their CBOR library printed a link: the bytes of the CID, with the zero before them. */
function withByteArrays(value: unknown): never {
  if (typeof value !== 'object' || value === null) return value as never
  if (Array.isArray(value)) return value.map(withByteArrays) as never
  const link = (value as { $link?: unknown }).$link
  if (typeof link === 'string') return [0, ...parseCid(link).bytes] as never
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key, withByteArrays(item)]),
  ) as never
}
