/** Which worker passes each crash point, on which streams, and what must be there for it to do so. */
import { type CrashPoint, crashPoints } from '../../shared/crash-point.ts'
import { streams } from '../../shared/streams/names.ts'
import type { Service } from '../pipeline.ts'
import type { Room, StreamName } from './room.ts'

/** A worker and a place at which it is to die. */
export interface Target {
  service: Service
  point: CrashPoint
  /** Taken by turns; none where the point does not tell them apart. */
  streams: readonly StreamName[]
  /** The latest passing at which it dies. */
  most: number
  /** It takes seconds until a worker passes it. */
  slow: boolean
  prepare: (room: Room, stream: StreamName | undefined, name: string) => Promise<void>
  /** It is prepared before the worker starts and not while it runs. */
  once: boolean
}

type Spec = Partial<Pick<Target, 'most' | 'slow' | 'prepare' | 'once'>> & {
  at?: Partial<Record<Service, readonly StreamName[]>>
  /** Every stream is a target of its own. */
  apart?: true
}

const { live, backfill, labels, requests } = streams
const sources = { ingester: [live, labels, requests] } as const
const frames = { ingester: [live, labels] } as const
const consumers = { indexer: [live, backfill, labels], backfiller: [requests] } as const

const poison: Spec['prepare'] = async (room, stream) => {
  if (stream !== undefined) await room.addPoison(stream)
}
const suspect: Spec['prepare'] = async (room, stream, name) => {
  if (stream !== undefined) await room.leaveSuspect(stream, name)
}
const other: Spec['prepare'] = async (room, stream) => {
  if (stream !== undefined) await room.leaveWithOther(stream)
}
const ask: Spec['prepare'] = (room) => room.request(2)
const label: Spec['prepare'] = (room) => room.label(4)
const list: Spec['prepare'] = (room) => room.setListBack()
const handle: Spec['prepare'] = (room) => room.changeHandle()
const brokenFrame: Spec['prepare'] = (room) => room.sendBrokenFrame()
/** The next repo that is asked for at each PDS is refused for once. */
const failure: Spec['prepare'] = async (room) => {
  const target = { method: 'com.atproto.sync.getRepo' }
  for (const host of room.pipeline.network.pds) {
    host.fault(target, { kind: 'status', status: 503 }, 1)
  }
  await room.request(2)
}

const table: Record<CrashPoint, Spec> = {
  'ingester.fence-taken': { at: sources },
  'ingester.read': { at: frames, most: 5 },
  'ingester.translated': { at: frames, most: 5 },
  'ingester.before-append': { at: frames, apart: true, most: 3 },
  'ingester.appended': { at: frames, apart: true, most: 3 },
  'ingester.before-page': { prepare: list },
  'ingester.page-appended': { prepare: list },
  'ingester.before-dead-letter': { prepare: brokenFrame, once: true, slow: true },
  'ingester.dead-lettered': { prepare: brokenFrame, once: true, slow: true },
  'ingester.before-mark': {},
  'ingester.marked': {},

  'producer.opened': { at: { ...sources, backfiller: [backfill] } },

  'consumer.seated': { at: consumers },
  'consumer.read': { at: consumers, most: 2 },
  'consumer.claimed': { at: consumers, slow: true, prepare: other },
  'consumer.before-apply': { at: consumers, most: 3 },
  'consumer.applied': { at: consumers, most: 3 },
  'consumer.acknowledged': { at: consumers, most: 3 },
  'consumer.suspected': { at: consumers, prepare: suspect, once: true },
  'consumer.cleared': { at: consumers, prepare: suspect, once: true },
  'consumer.before-dead-letter': { at: consumers, prepare: poison },
  'consumer.dead-lettered': { at: consumers, prepare: poison },
  'consumer.trimmed': { at: consumers, slow: true },

  'indexer.begun': { most: 4 },
  'indexer.locked': { most: 4 },
  'indexer.decided': { most: 4 },
  'indexer.written': { most: 4 },
  'indexer.counted': { most: 4 },
  'indexer.reconcile-begun': { most: 4 },
  'indexer.reconcile-locked': { most: 4 },
  'indexer.reconcile-read': { most: 4 },
  'indexer.reconciled': { most: 4 },
  'indexer.committed': { most: 4 },
  'indexer.before-snapshot': { most: 2, prepare: ask },
  'indexer.snapshot-noted': { most: 2, prepare: ask },
  'indexer.before-labels': { most: 2, prepare: label },
  'indexer.labels-written': { most: 2, prepare: label },
  'indexer.labels-committed': { most: 2, prepare: label },
  'indexer.before-position': { slow: true },
  'indexer.position-stored': { slow: true },
  'indexer.before-handle': { most: 2, prepare: handle },
  'indexer.handle-stored': { most: 2, prepare: handle },

  'backfiller.asked': { most: 3 },
  'backfiller.fetched': { most: 3 },
  'backfiller.before-append': { most: 5 },
  'backfiller.appended': { most: 5 },
  'backfiller.before-complete': { most: 3 },
  'backfiller.completed': { most: 3 },
  'backfiller.before-attempt': { prepare: failure },
  'backfiller.attempt-noted': { prepare: failure },
}

export const targets: readonly Target[] = Object.entries(table).flatMap(([name, spec]) =>
  targetsOf(name as CrashPoint, spec),
)

function targetsOf(point: CrashPoint, spec: Spec): Target[] {
  const { at, most = 1, slow = false, once = false, apart, prepare } = spec
  const places = Object.entries(at ?? { [serviceOf(point)]: [] }) as [Service, StreamName[]][]
  return places.flatMap(([service, streams]) => {
    const target = { service, point, most, slow, once }
    const each = apart === true ? streams.map((stream) => [stream]) : [streams]
    return each.map((streams) => ({ ...target, streams, prepare: prepare ?? enoughFor(service) }))
  })
}

/** What there must be to do; commits there always are. */
function enoughFor(service: Service): Target['prepare'] {
  return async (room, stream) => {
    if (stream === labels) await room.label(4)
    if (service === 'backfiller' || stream === backfill) await room.request(2)
  }
}

function serviceOf(point: CrashPoint): Service {
  const [service] = point.split('.')
  if (service === 'ingester' || service === 'indexer' || service === 'backfiller') return service
  throw new RangeError(`who passes ${point}?`)
}

/** The sentence of a target's point. */
export const sentenceOf = ({ point }: Target): string => crashPoints[point]
