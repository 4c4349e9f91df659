/** The indexer's process. */
import { runWorker } from '../shared/worker.ts'
import { runIndexer } from './indexer.ts'
import { options } from './options.ts'

await runWorker('indexer', options, runIndexer)
