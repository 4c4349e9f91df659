/** The ingester's process. */
import { runWorker } from '../shared/worker.ts'
import { runIngester } from './ingester.ts'
import { options } from './options.ts'

await runWorker('ingester', options, runIngester)
