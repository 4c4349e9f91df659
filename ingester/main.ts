/** The ingester's process. */
import { setFlagsFromString } from 'node:v8'
import { leanIngester, startLean } from '../shared/lean.ts'

startLean(leanIngester)
// Small objects of the heap hold frames: left to itself it grows to four times what is in use.
setFlagsFromString('--heap-growing-percent=100')
// What the process was started with is of this thread; those that prove have a bound of their own.
setFlagsFromString('--max-semi-space-size=0')
// Few young objects outlive a collection: threads that help wait for a core longer than they save.
setFlagsFromString('--no-parallel-scavenge')

const { runWorker } = await import('../shared/worker.ts')
const { runIngester } = await import('./ingester.ts')
const { options } = await import('./options.ts')

await runWorker('ingester', options, runIngester)
