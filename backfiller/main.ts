import { runWorker } from '../shared/worker.ts'
import { runBackfiller } from './backfiller.ts'
import { options } from './options.ts'

await runWorker('backfiller', options, runBackfiller)
