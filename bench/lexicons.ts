/** What validating and deriving a record costs, on the records that the recordings hold. `node bench/lexicons.ts`. */
import { collections } from '../indexer/collections/index.ts'
import { createDeriver } from '../indexer/derive.ts'
import { compileLexicons } from '../indexer/lexicons.ts'
import { sharedJsonLines } from '../test/data.ts'

interface Mined {
  did: string
  path: string
  cid: string
  record: Record<string, unknown>
}

const rounds = 60
const names = collections.map(({ nsid }) => nsid)
const validate = await compileLexicons(names)
const { change } = createDeriver(collections, validate)
const known = new Set(names)
const records = ['by-collection', 'odd']
  .flatMap((name) => sharedJsonLines<Mined>(`records/mined/${name}.jsonl`))
  .map(({ did, path, cid, record }) => {
    const [collection = '', rkey = ''] = path.split('/')
    const head = { type: 'create', seq: 1, time: '2026-01-01T00:00:00.000Z', did } as const
    return { ...head, commit: cid, rev: '3kz2222222222', collection, rkey, cid, record }
  })
  .filter(({ collection }) => known.has(collection))

function cost(work: (index: number) => unknown): number {
  for (let index = 0; index < records.length * 10; index += 1) work(index % records.length)
  const { user, system } = process.cpuUsage()
  for (let index = 0; index < records.length * rounds; index += 1) work(index % records.length)
  const spent = process.cpuUsage()
  return (spent.user + spent.system - user - system) / (records.length * rounds)
}

const validating = cost((index) => {
  const { collection, record } = records[index] as (typeof records)[number]
  return validate(collection, record)
})
const deriving = cost((index) => change(records[index] as (typeof records)[number]))
console.table({
  records: records.length,
  'validation, CPU µs/record': Number(validating.toFixed(1)),
  'validation and derivation, CPU µs/record': Number(deriving.toFixed(1)),
})
