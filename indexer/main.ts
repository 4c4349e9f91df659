/** The indexer's process. */
import { setFlagsFromString } from 'node:v8'
import { leanIndexer, startLean } from '../shared/lean.ts'

startLean(leanIndexer)
// Left to itself the heap grows to four times what is in use, by batches that are long done with.
setFlagsFromString('--heap-growing-percent=150')

const { runWorker } = await import('../shared/worker.ts')
const { runIndexer } = await import('./indexer.ts')
const { options } = await import('./options.ts')

await runWorker('indexer', options, runIndexer)
