/** Faults as switches: whom they meet, how often, and how often they did. */
import type { Random } from './random.ts'

/** Which of the requests or frames that fit are met; by default all. */
export interface When {
  /** At most so many. */
  times?: number
  /** Each with this probability, decided by the seed. */
  chance?: number
  /** None of the first so many. */
  after?: number
  /** A frame is spoilt again when it is sent again; by default it is whole the second time. */
  always?: boolean
}

export interface Fault {
  /** The host's name and the kind of fault. */
  readonly name: string
  /** How often it has fired. */
  readonly fired: number
  /** Switches it off; what it has counted stays. */
  clear(): void
}

/** A switch that fits, for the one who spoils: `fire` counts. */
export interface Taken<F> {
  fault: F
  /** Decides what the fault leaves open. */
  random: Random
  fire: () => void
}

export interface Switches<T, F> {
  add(target: T, fault: F, when?: number | When): Fault
  /** The first switch that is on, fits and is drawn; `once` names what is met once only. */
  take(fits: (target: T) => boolean, once?: string): Taken<F> | undefined
  /** Whether any switch is on. */
  readonly armed: boolean
  /** Every fault that was ever added. */
  readonly all: readonly Fault[]
}

interface Switch<T, F> {
  target: T
  fault: F
  when: When
  random: Random
  met: number
  fired: number
  seen: Set<string>
}

/** `host` is for the names of the faults. */
export function createSwitches<T, F extends { kind: string }>(
  random: Random,
  host: string,
): Switches<T, F> {
  const on = new Set<Switch<T, F>>()
  const all: Fault[] = []

  const draws = (entry: Switch<T, F>, once: string | undefined): boolean => {
    const { when, seen } = entry
    if (once !== undefined && when.always !== true && seen.has(once)) return false
    if (++entry.met <= (when.after ?? 0)) return false
    // What comes again is drawn as it was before, so that a run does not depend on how often.
    const source = once === undefined ? entry.random : entry.random.fork(once)
    return when.chance === undefined || source.chance(when.chance)
  }

  return {
    add(target, fault, given = {}) {
      const when = typeof given === 'number' ? { times: given } : given
      const source = random.fork(`${host}/${all.length}`)
      const entry = {
        target,
        fault,
        when,
        random: source,
        met: 0,
        fired: 0,
        seen: new Set<string>(),
      }
      on.add(entry)
      const made: Fault = {
        name: `${host}: ${fault.kind}`,
        get fired() {
          return entry.fired
        },
        clear: () => void on.delete(entry),
      }
      all.push(made)
      return made
    },
    take(fits, once) {
      for (const entry of on) {
        if (!fits(entry.target) || !draws(entry, once)) continue
        const fire = () => {
          entry.fired++
          if (once !== undefined) entry.seen.add(once)
          if (entry.fired >= (entry.when.times ?? Number.POSITIVE_INFINITY)) on.delete(entry)
        }
        return { fault: entry.fault, random: entry.random.fork(once ?? `${entry.met}`), fire }
      }
      return undefined
    },
    get armed() {
      return on.size > 0
    },
    all,
  }
}

/** Throws an Error that names the faults that have not fired: a test that wants a fault must have it. */
export function expectFired(...faults: readonly Fault[]): void {
  const silent = faults.filter(({ fired }) => fired === 0).map(({ name }) => name)
  if (silent.length > 0) throw new Error(`never fired: ${silent.join(', ')}`)
}
