/** A way to spoil a frame, and what comes of it. */
import type { Random } from '../../simulator/random.ts'
import type { Corpus } from './corpus.ts'
import type { Source } from './source.ts'
import type { CommitTruth } from './truth.ts'

export interface Mutant {
  frame: Uint8Array
  /** What its account signed for it; it may come out, whole. */
  made?: CommitTruth
}

export interface Mutation {
  name: string
  /** How often it is drawn beside the others. */
  weight: number
  /** Null where the source has nothing to be spoilt in this way. */
  make: (source: Source, random: Random, corpus: Corpus) => Mutant | null | Promise<Mutant | null>
}
