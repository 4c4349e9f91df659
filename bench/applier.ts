/**
 * A thread of `bench/reference.ts` that does what one of several indexers does, without streams: it applies the events
 * of its accounts, first those that are not measured, then, when it is told to, the others.
 */
import { once } from 'node:events'
import { parentPort, workerData } from 'node:worker_threads'
import { pino } from 'pino'
import { connectPostgres } from '../shared/postgres.ts'
import { conversation } from './conversation.ts'
import { laneOf, measure, shipped } from './engine.ts'

export interface Part {
  databaseUrl: string
  schema: string
  /** Events of all indexers: not measured, and measured. */
  warming: number
  count: number
  indexers: number
  index: number
}

const port = parentPort
if (port === null) throw new Error('this is a thread of bench/reference.ts')
const { databaseUrl, schema, warming, count, indexers, index } = workerData as Part
await using sql = connectPostgres({
  databaseUrl,
  poolSize: shipped.transactions,
  log: pino({ level: 'silent' }),
})
const events = [...conversation(warming + count)]
// Backwards: the accounts of one indexer are dealt to its transactions once more.
const own = ({ did }: { did: string }) => laneOf([...did].reverse().join(''), indexers) === index
await measure(sql, schema, events.slice(0, warming).filter(own), shipped)
const rest = events.slice(warming).filter(own)
port.postMessage('warm')
await once(port, 'message')
await measure(sql, schema, rest, shipped)
port.postMessage('done')
