/** What happens in a living network, in which order: decks of deeds, shuffled by the seed. */
import type { Random } from './random.ts'

/** How often each deed of the accounts' daily life is in a deck. */
const daily = {
  post: 25,
  reply: 17,
  like: 24,
  repost: 7,
  follow: 9,
  block: 2,
  profile: 2,
  edit: 4,
  delete: 8,
  recreate: 3,
  several: 3,
  list: 1,
  listItem: 4,
  listBlock: 1,
  threadGate: 2,
  postGate: 2,
  starterPack: 1,
  generator: 1,
  verification: 1,
  self: 3,
  label: 3,
  expiringLabel: 1,
  negation: 2,
} as const

/** What becomes of accounts and identities: each once in a deck that holds them. */
const changes = [
  'sync',
  'handle',
  'signingKey',
  'rotationKey',
  'migration',
  'deactivation',
  'return',
  'deletion',
  'joining',
] as const

export type Deed = keyof typeof daily | (typeof changes)[number]

export const deeds: readonly Deed[] = [
  ...(Object.keys(daily) as (keyof typeof daily)[]),
  ...changes,
]

export interface PlanOptions {
  /** One deck in so many holds the changes of accounts; default 1: every deck. */
  changesEvery?: number
  /** Deeds that are left out. */
  without?: readonly Deed[]
}

/** The next deed, without end. In a deck of some 130 each kind that is not left out comes at least once. */
export function createPlan(random: Random, options: PlanOptions = {}): () => Deed {
  const { changesEvery = 1, without = [] } = options
  const everyDay = Object.entries(daily).flatMap(([deed, count]) =>
    Array.from({ length: count }, () => deed as Deed),
  )
  let deck: Deed[] = []
  let dealt = 0
  const deal = () => {
    const withChanges = ++dealt % changesEvery === 0
    const cards = [...everyDay, ...(withChanges ? changes : [])]
    return shuffled(
      random,
      cards.filter((deed) => !without.includes(deed)),
    )
  }
  return () => {
    for (let tries = 0; deck.length === 0 && tries < changesEvery; tries++) deck = deal()
    const deed = deck.pop()
    if (deed === undefined) throw new RangeError('every deed was left out')
    return deed
  }
}

function shuffled<T>(random: Random, cards: readonly T[]): T[] {
  const left = [...cards]
  const order: T[] = []
  while (left.length > 0) order.push(...left.splice(random.below(left.length), 1))
  return order
}
