/** Proves messages: on this thread, or in batches on others. */
import { scopeOf } from '../shared/scope.ts'
import type { CommitMessage, SyncMessage } from './frame.ts'
import { type Proved, prove, type VerifyMode } from './prove.ts'

/** A thread has ended by itself: a bug of ours, which ends the process. */
export class ProverError extends Error {
  override readonly name = 'ProverError'
}

export interface ProverOptions {
  mode: VerifyMode
  /** The patterns of the scope. */
  collections: readonly string[]
  now?: () => number
}

export interface Prover extends AsyncDisposable {
  /**
   * Proves a message with the key of its account, as far as one is at hand (null: all but the
   * signature). Results do not depend on where the work is done. Rejects with `RefusedError`.
   */
  prove(message: CommitMessage | SyncMessage, key: string | null): Promise<Proved>
}

export function createProver({ mode, collections, now = Date.now }: ProverOptions): Prover {
  const scope = scopeOf(collections)
  return {
    prove: async (message, key) => prove(message, key, { mode, scope, now: now() }),
    async [Symbol.asyncDispose]() {},
  }
}
