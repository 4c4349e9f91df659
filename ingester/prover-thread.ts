/** A thread that proves the frames it is given, a batch at a time. */
import { parentPort, workerData } from 'node:worker_threads'
import { scopeOf } from '../shared/scope.ts'
import { RefusedError } from './commit.ts'
import { decodeFrame } from './frame.ts'
import { prove } from './prove.ts'
import { frameOf, type Outcome, packOutcomes, type Task, type ThreadData } from './prover-batch.ts'

const { mode, collections } = workerData as ThreadData
const scope = scopeOf(collections)

parentPort?.on('message', (task: Task) => {
  const answer = packOutcomes(outcomesOf(task), task.bytes.buffer)
  parentPort?.postMessage(answer, [answer.memory, answer.numbers.buffer, answer.bytes.buffer])
})

function* outcomesOf(task: Task): Generator<Outcome> {
  const { keys, now } = task
  for (const [index, key] of keys.entries()) yield outcomeOf(frameOf(task, index), key, now)
}

function outcomeOf(frame: Uint8Array, key: string | null, now: number): Outcome {
  try {
    const message = decodeFrame(frame)
    if (message.type === 'commit' || message.type === 'sync') {
      return prove(message, key, { mode, scope, now })
    }
    throw new TypeError(`a frame of the kind ${message.type} has nothing to prove`)
  } catch (error) {
    if (error instanceof RefusedError) return { refused: error.reason, words: error.message }
    return { bug: error instanceof Error ? (error.stack ?? error.message) : String(error) }
  }
}
