/** Named places at which a test has a worker killed: before and after each step that lasts. */
import { writeSync } from 'node:fs'
import { environment } from './config.ts'

/** Every place, with what is done and what is not when a worker dies there. */
export const crashPoints = {
  'ingester.fence-taken': 'The fence is taken, nothing is appended under it.',
  'ingester.read': 'A frame is read from the socket, nothing is done with it.',
  'ingester.translated': 'A frame is proved and translated, and is in memory only.',
  'ingester.before-append': 'A batch of frames and its position are about to be appended.',
  'ingester.appended': 'A batch of frames and its position are appended.',
  'ingester.before-page': 'The requests of a page and its cursor are about to be appended.',
  'ingester.page-appended': 'The requests of a page and its cursor are appended.',
  'ingester.before-dead-letter': 'What nobody can read is about to be set aside.',
  'ingester.dead-lettered': 'What nobody can read is set aside, the position is before it.',
  'ingester.before-mark': 'The positions of the hosts are about to be marked.',
  'ingester.marked': 'The positions of the hosts are marked.',

  'producer.opened': 'The session of a producer is opened.',

  'consumer.seated': 'The group is there and the seat is taken, nothing is read.',
  'consumer.read': 'Entries are read, and pending.',
  'consumer.claimed': 'Entries of another consumer are taken over.',
  'consumer.before-apply': 'A batch is about to be applied.',
  'consumer.applied': 'A batch is applied and not acknowledged.',
  'consumer.acknowledged': 'A batch is acknowledged.',
  'consumer.suspected': 'An entry is about to be opened alone, and that is counted.',
  'consumer.cleared': 'An entry that was opened alone has come to its end.',
  'consumer.before-dead-letter': 'An entry is about to be set aside.',
  'consumer.dead-lettered': 'An entry is set aside.',
  'consumer.trimmed': 'The stream is trimmed.',

  'indexer.begun': 'A transaction is begun.',
  'indexer.locked': 'The repos of a batch are locked.',
  'indexer.decided': 'It is decided which changes win.',
  'indexer.written': 'Rows are written.',
  'indexer.counted': 'Counters are written, the commit is next.',
  'indexer.reconcile-begun': 'A batch is committed, what depends on other repos is not looked at.',
  'indexer.reconcile-locked': 'The repos that a reconciliation may change are locked.',
  'indexer.reconcile-read': 'It is read what depends on other repos, nothing is written.',
  'indexer.reconciled': 'What depends on other repos is written, the commit is next.',
  'indexer.committed': 'A transaction is committed, its batch is not acknowledged.',
  'indexer.before-snapshot': 'A snapshot is about to be noted.',
  'indexer.snapshot-noted': 'A snapshot is noted and what it lacks is gone, uncommitted.',
  'indexer.before-labels': 'Labels are about to be written.',
  'indexer.labels-written': 'Labels are written, the commit is next.',
  'indexer.labels-committed': 'Labels are committed, their entries are not acknowledged.',
  'indexer.before-position': 'The positions that a group has passed are about to be stored.',
  'indexer.position-stored': 'The positions that a group has passed are stored.',
  'indexer.before-handle': 'A handle is resolved and about to be stored.',
  'indexer.handle-stored': 'A handle is stored.',

  'backfiller.asked': 'A request is read, nothing is done for it.',
  'backfiller.fetched': 'A repo is fetched and proved.',
  'backfiller.before-append': 'A chunk of records is about to be appended.',
  'backfiller.appended': 'A chunk of records is appended, more follows.',
  'backfiller.before-complete': 'The last chunk, which says that the repo is whole, is next.',
  'backfiller.completed': 'A repo is appended whole, its request is not acknowledged.',
  'backfiller.before-attempt': 'A request is about to be put back, with its failed tries.',
  'backfiller.attempt-noted': 'A request is put back, with its failed tries.',
} as const

export type CrashPoint = keyof typeof crashPoints

/** Where to die: at the so-many-th passing of a point, on a certain stream or on any. */
interface Armed {
  point: CrashPoint
  stream: string | null
  left: number
}

const armed = parseCrashAt(environment['SLUICE_CRASH_AT'])

/**
 * Ends this process by SIGKILL, when `SLUICE_CRASH_AT` (`point[@stream][:passing]`) says so. What has
 * more than one stream names its own.
 */
export function crashPoint(point: CrashPoint, stream?: string): void {
  if (armed !== null) pass(armed, point, stream)
}

function pass(at: Armed, point: CrashPoint, stream: string | undefined): void {
  if (point !== at.point || (at.stream !== null && at.stream !== stream)) return
  at.left -= 1
  if (at.left > 0) return
  writeSync(2, `crash point ${point}${stream === undefined ? '' : `@${stream}`}\n`)
  process.kill(process.pid, 'SIGKILL')
}

/** Null when nothing is set. Throws a RangeError for a point that is not in the table. */
export function parseCrashAt(text: string | undefined): Armed | null {
  if (text === undefined || text === '') return null
  const [, name = '', stream = null, passing = '1'] =
    /^([^@:]+)(?:@([^:]+))?(?::(\d+))?$/.exec(text) ?? []
  if (!isCrashPoint(name)) throw new RangeError(`SLUICE_CRASH_AT: ${text} names no crash point`)
  return { point: name, stream, left: Number(passing) }
}

function isCrashPoint(name: string): name is CrashPoint {
  return Object.hasOwn(crashPoints, name)
}
