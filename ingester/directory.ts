/**
 * Asks a directory for accounts: so many at once, as often as it allows, and only for those who can
 * have their answer in time.
 *
 * answering  asked as questions come
 * limited    it said 429: asked at a pace that it lately bore, which grows again slowly
 * away       no answer several times in a row: asked by one at a time, less and less often
 */
import { type Account, IdentityError } from '../shared/identity.ts'
import { backoff } from '../shared/retry.ts'

/** A directory answers in 20 to 200 ms: enough for some hundred accounts a second. */
const asksAtOnce = 64
/** So many in a row without an answer: the directory is away, not one request unlucky. */
const failuresAway = 3
/** For so long a directory that is away may be a short fault: who asks waits as if it were not. */
const shortFaultMs = 5_000
const longestPauseMs = 60_000
/** Of the questions so many wait for a commit while one of the others is let in. */
const hurriedToOne = 3
/** The pace grows by a tenth in this time without a 429; from so many a second on it has no limit. */
const growEveryMs = 5_000
const unlimitedRate = 300

/** `none`: certainly no such account; `unavailable`: nobody could say in time. */
export type Answer = Account | 'none' | 'unavailable'

export interface Directory {
  /**
   * Resolves by `by` at the latest, at once when it is clear that no answer can be had by then. One
   * without a time waits its turn for as long as it takes, behind those who have one.
   */
  ask(did: string, by: number | null): Promise<Answer>
  readonly state: 'answering' | 'limited' | 'away'
  /** Questions that wait for their turn. */
  readonly waiting: number
}

export interface DirectoryOptions {
  /** Asks once. Throws `IdentityError`. */
  resolve: (did: string, signal: AbortSignal) => Promise<Account>
  signal: AbortSignal
  now?: () => number
  /** Calls after so long; for tests. */
  after?: (ms: number, call: () => void) => void
}

interface Question {
  did: string
  by: number | null
  answer: (answer: Answer) => void
  fail: (error: unknown) => void
}

export function createDirectory(options: DirectoryOptions): Directory {
  const { signal, now = Date.now } = options
  const { after = (ms, call) => void setTimeout(call, ms).unref() } = options
  const hurried: Question[] = []
  const patient: Question[] = []
  const pace = createPace(now)
  let asking = 0
  let turns = 0
  /** Answers that did not come, in a row, and since when. */
  let failures = 0
  let awaySince = 0
  /** Looks whether it is back. */
  let looks = 1
  let wakeAt = Number.POSITIVE_INFINITY

  const isAway = () => failures >= failuresAway

  /** When a question that is asked now is answered, at the earliest; null when nobody knows. */
  const answeredAt = (): number | null => {
    if (!isAway()) return pace.next + hurried.length * pace.intervalMs
    const isShort = now() - awaySince < shortFaultMs
    // One of those who ask looks whether it is back.
    const isTurn = asking === 0 && hurried.length === 0 && pace.next <= now()
    return isShort || isTurn ? now() : null
  }

  const wake = (at: number) => {
    if (at >= wakeAt || at === Number.POSITIVE_INFINITY) return
    wakeAt = at
    after(Math.max(0, at - now()), () => {
      if (wakeAt !== at) return
      wakeAt = Number.POSITIVE_INFINITY
      pump()
    })
  }

  const expire = () => {
    while (hurried[0] !== undefined && (hurried[0].by ?? 0) <= now()) {
      hurried.shift()?.answer('unavailable')
    }
  }

  const take = (): Question | undefined => {
    turns += 1
    const other = turns % (hurriedToOne + 1) === 0
    return other ? (patient.shift() ?? hurried.shift()) : (hurried.shift() ?? patient.shift())
  }

  const pump = () => {
    expire()
    const most = isAway() ? 1 : asksAtOnce
    while (!signal.aborted && asking < most && pace.next <= now()) {
      const question = take()
      if (question === undefined) break
      pace.asked()
      void put(question)
    }
    const next = hurried[0]?.by ?? Number.POSITIVE_INFINITY
    const waits = hurried.length + patient.length > 0 && asking < most
    wake(Math.min(next, waits ? pace.next : Number.POSITIVE_INFINITY))
  }

  const put = async (question: Question): Promise<void> => {
    const { did, by, answer } = question
    asking += 1
    if (by !== null) after(Math.max(0, by - now()), () => answer('unavailable'))
    try {
      const account = await options.resolve(did, signal)
      answered()
      answer(account)
    } catch (error) {
      if (signal.aborted) return answer('unavailable')
      if (!(error instanceof IdentityError)) return question.fail(error)
      if (error.kind !== 'unavailable') {
        answered()
        answer('none')
      } else if (error.tooOften) {
        failures = 0
        pace.tooOften(error.retryAfterMs)
        again(question)
      } else {
        failed()
        again(question)
      }
    } finally {
      asking -= 1
      pump()
    }
  }

  const failed = () => {
    // Those that were on their way together say one thing, once.
    if (isAway() && asking === 1) looks += 1
    failures += 1
    if (failures === failuresAway) awaySince = now()
    if (isAway()) pace.pause(backoff(looks, { initialMs: 250, maxMs: 5_000 }))
  }

  const answered = () => {
    failures = 0
    looks = 1
    pace.answered()
  }

  const again = (question: Question) => {
    if (question.by === null) patient.push(question)
    else if (question.by <= now()) question.answer('unavailable')
    else hurried.unshift(question)
  }

  signal.addEventListener('abort', () => {
    for (const { answer } of [...hurried.splice(0), ...patient.splice(0)]) answer('unavailable')
  })

  return {
    ask(did, by) {
      return new Promise((answer, fail) => {
        const at = by === null ? null : answeredAt()
        if (signal.aborted || (by !== null && (at === null || at > by)))
          return answer('unavailable')
        const questions = by === null ? patient : hurried
        questions.push({ did, by, answer, fail })
        pump()
      })
    },
    get state() {
      return isAway() ? 'away' : pace.intervalMs > 0 ? 'limited' : 'answering'
    },
    get waiting() {
      return hurried.length + patient.length
    },
  }
}

/** How often the directory may be asked. */
function createPace(now: () => number) {
  let next = 0
  let intervalMs = 0
  let calmSince = 0
  let second = { since: 0, answers: 0, before: 0 }
  return {
    /** When the next question may be asked. */
    get next() {
      return next
    },
    /** Between two questions; 0 while there is no limit. */
    get intervalMs() {
      return intervalMs
    },
    asked() {
      if (intervalMs > 0) next = Math.max(next, now()) + intervalMs
    },
    answered() {
      const at = now()
      const age = at - second.since
      if (age >= 1_000) second = { since: at, answers: 0, before: age < 2_000 ? second.answers : 0 }
      second.answers += 1
      if (intervalMs === 0 || at - calmSince < growEveryMs) return
      calmSince = at
      intervalMs /= 1.1
      if (intervalMs < 1_000 / unlimitedRate) intervalMs = 0
    },
    /** One answer of this kind counts: those that were on their way beside it say the same. */
    tooOften(retryAfterMs: number | null) {
      const at = now()
      if (at < next && calmSince === next) return
      const borne = Math.max(1, second.answers, second.before) * 0.8
      intervalMs = Math.max(intervalMs * 1.25, 1_000 / borne)
      next = at + Math.min(longestPauseMs, Math.max(retryAfterMs ?? 1_000, intervalMs))
      calmSince = next
      second = { since: next, answers: 0, before: 0 }
    },
    pause(ms: number) {
      next = Math.max(next, now() + ms)
    },
  }
}
