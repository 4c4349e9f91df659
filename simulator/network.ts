/** A small AT Protocol network on loopback: directory, PDSes, relay, labeler, accounts. */
import { type Keypair, P256Keypair, Secp256k1Keypair } from '@atproto/crypto'
import type { LexMap } from '@atproto/lex-data'
import { Account, type ExpectedRecord } from './account.ts'
import { type Clock, steppedClock } from './clock.ts'
import { createDirectory, type Directory } from './directory.ts'
import { accountData, documentOf, latestData, type PlcData, signOperation } from './documents.ts'
import { type Listener, listen, XrpcError } from './http.ts'
import { type Labeler, startLabeler } from './labeler.ts'
import { type Pds, type RateLimit, startPds } from './pds.ts'
import { type HandleResolver, type Plc, startHandleResolver, startPlc } from './plc.ts'
import { createRandom, type Random } from './random.ts'
import { type Relay, type RelayOptions, startRelay } from './relay.ts'
import type { HostedRepo } from './repos.ts'

export interface NetworkOptions {
  /** Decides keys, DIDs and all else that is drawn; default `sluice`. */
  seed?: string
  /** How many PDSes; default 1. */
  pds?: number
  rateLimit?: RateLimit
  relay?: Omit<RelayOptions, 'clock' | 'repos'>
  /** The labeler's first seq; default 1. */
  labelerFirstSeq?: number
  /** Default: starts 2026-01-01 and moves 1 ms at each reading, so that a run is the same every time. */
  clock?: Clock
  /** Told of every event that the network gives its relay: what can be heard of it. */
  onEvent?: (type: string, body: LexMap) => void
}

export interface NewAccount {
  /** Default `account<n>.test`. */
  handle?: string
  /** Default plc. A did:web is `did:web:localhost%3A<port>`: the seed does not decide its port. */
  method?: 'plc' | 'web'
  /** Default k256. */
  curve?: Curve
  /** Default the first. */
  pds?: Pds
  /** Makes the account and its commits without the relay hearing of it: work for a backfill. */
  quiet?: boolean
}

export type Curve = 'k256' | 'p256'

export interface Network extends AsyncDisposable {
  readonly directory: Directory
  readonly plc: Plc
  readonly relay: Relay
  readonly pds: readonly [Pds, ...Pds[]]
  readonly labeler: Labeler
  readonly handleResolver: HandleResolver
  readonly clock: Clock
  readonly random: Random
  readonly accounts: ReadonlyMap<string, Account>
  /** Makes an account with an empty repo; the relay hears `#identity`, `#account`, `#commit`, `#sync`. */
  account(options?: NewAccount): Promise<Account>
  /** What must exist of all accounts that were not deleted, by URI. */
  records(): Map<string, ExpectedRecord>
  /** Sends `#identity` with the handle that the directory has. */
  emitIdentity(did: string): void
  /** From now on the PDS says so; sends `#account`. Throws a RangeError for an unknown account. */
  emitAccount(did: string, status: { active: boolean; status?: string }): void
  /** Sends `#sync` with the newest commit. */
  emitSync(did: string): Promise<void>
  /** Changes the handle, the signing key or both in the directory, then sends `#identity`. */
  changeIdentity(did: string, change: { handle?: string; curve?: Curve }): Promise<void>
  /** Stops everything: no port, socket or timer is left. */
  close(): Promise<void>
}

/** Starts a network on free ports. */
export async function startNetwork(options: NetworkOptions = {}): Promise<Network> {
  const clock = options.clock ?? steppedClock(Date.UTC(2026, 0, 1), 1, 7)
  const random = createRandom(options.seed ?? 'sluice')
  const directory = createDirectory()
  const serial = createQueue()
  const accounts = new Map<string, Account>()
  const homes = new Map<string, Pds>()
  const webs: Listener[] = []
  let unnamed = 0

  const plc = await startPlc(directory)
  const handleResolver = await startHandleResolver(directory)
  const limits = options.rateLimit && { rateLimit: options.rateLimit }
  const first = await startPds({ directory, ...limits })
  const pds: [Pds, ...Pds[]] = [first]
  while (pds.length < (options.pds ?? 1)) pds.push(await startPds({ directory, ...limits }))
  function* repos(): Iterable<HostedRepo> {
    for (const host of pds) yield* host.repos()
  }
  const relay = await startRelay({ ...options.relay, clock, repos })
  const registrar = { directory, clock, rotation: await createKey(random.fork('rotation'), 'k256') }
  const labelKey = await createKey(random.fork('labeler'), 'k256')
  const labeler = await startLabeler({
    clock,
    key: labelKey,
    identify: (url) => register(registrar, labelerData(labelKey, url)),
    ...(options.labelerFirstSeq !== undefined && { firstSeq: options.labelerFirstSeq }),
  })

  const emit: Relay['emit'] = (type, body) => {
    options.onEvent?.(type, body)
    relay.emit(type, body)
  }
  const find = (did: string): Account => {
    const account = accounts.get(did)
    if (account === undefined) throw new RangeError(`${did} is not an account of this network`)
    return account
  }
  const homeOf = (did: string): Pds => {
    const home = homes.get(did)
    if (home === undefined) throw new RangeError(`${did} is not an account of this network`)
    return home
  }
  const emitIdentity = (did: string) => {
    emit('#identity', { did, handle: find(did).handle })
  }
  const emitAccount: Network['emitAccount'] = (did, { active, status }) => {
    homeOf(did).setStatus(did, { active, status: status ?? null })
    emit('#account', { did, active, ...(status !== undefined && { status }) })
  }

  const account = async (options: NewAccount = {}): Promise<Account> => {
    const { method = 'plc', curve = 'k256', pds: home = first, quiet = false } = options
    const handle = options.handle ?? `account${++unnamed}.test`
    const key = await createKey(random.fork(`key/${handle}`), curve)
    const data = accountData({ signingKey: key.did(), handle, pds: home.url })
    const did =
      method === 'web' ? await registerWeb(directory, webs, data) : await register(registrar, data)
    let announced = quiet
    // The first commit is announced when the PDS can already answer for it.
    const announce: Relay['emit'] = (type, body) => {
      if (!announced) {
        announced = true
        home.adopt(made)
        emitIdentity(did)
        emit('#account', { did, active: true })
      }
      emit(type, body)
    }
    const made = new Account({ did, handle, key, clock, quiet, serial, emit: announce })
    accounts.set(did, made)
    homes.set(did, home)
    await made.applyWrites([])
    if (quiet) home.adopt(made)
    else emit('#sync', await made.syncBody())
    return made
  }

  const changeIdentity: Network['changeIdentity'] = async (did, { handle, curve }) => {
    const changed = find(did)
    if (curve !== undefined) {
      changed.key = await createKey(random.fork(`key/${did}/${clock.now()}`), curve)
    }
    changed.handle = handle ?? changed.handle
    const { signingKey } = changed
    const data = accountData({ signingKey, handle: changed.handle, pds: homeOf(did).url })
    if (did.startsWith('did:web:')) directory.setDocument(documentOf(did, data))
    else await amend(registrar, did, data)
    emitIdentity(did)
  }

  const records = () => {
    const all = new Map<string, ExpectedRecord>()
    for (const host of pds) {
      for (const { did } of host.repos()) {
        for (const [uri, record] of accounts.get(did)?.records() ?? []) all.set(uri, record)
      }
    }
    return all
  }

  const close = async () => {
    const parts = [relay, labeler, ...pds, handleResolver, plc, ...webs]
    await Promise.all(parts.map((part) => part.close()))
  }

  return {
    directory,
    plc,
    relay,
    pds,
    labeler,
    handleResolver,
    clock,
    random,
    accounts,
    account,
    records,
    emitIdentity,
    emitAccount,
    emitSync: async (did) => emit('#sync', await find(did).syncBody()),
    changeIdentity,
    close,
    [Symbol.asyncDispose]: close,
  }
}

type IdentityData = Omit<PlcData, 'rotationKeys'>

interface Registrar {
  directory: Directory
  clock: Clock
  rotation: Keypair
}

/**
 * Makes a did:plc of two operations. Ports differ from run to run, so the first one, which decides
 * the DID, names no loopback address.
 */
async function register(registrar: Registrar, data: IdentityData): Promise<string> {
  const services: PlcData['services'] = {}
  for (const [name, { type }] of Object.entries(data.services)) {
    services[name] = { type, endpoint: `https://${name.replaceAll('_', '-')}.test` }
  }
  const { directory, clock, rotation: key } = registrar
  const genesis = await signOperation(
    { rotationKeys: [key.did()], ...data, services },
    { key, prev: null, did: null, createdAt: clock.iso() },
  )
  directory.append(genesis)
  await amend(registrar, genesis.did, data)
  return genesis.did
}

/** Appends an operation that gives the identity this data. */
async function amend(registrar: Registrar, did: string, data: IdentityData): Promise<void> {
  const { directory, clock, rotation: key } = registrar
  const log = directory.log(did)
  const rotationKeys = latestData(log)?.rotationKeys ?? [key.did()]
  const prev = log.at(-1)?.cid ?? null
  const options = { key, prev, did, createdAt: clock.iso() }
  directory.append(await signOperation({ rotationKeys, ...data }, options))
}

/** A did:web has a host of its own, which serves its document. */
async function registerWeb(directory: Directory, webs: Listener[], data: IdentityData) {
  const listener = await listen({
    answer: ({ path }) => {
      const body = directory.document(did)
      if (path !== '/.well-known/did.json' || !body) throw new XrpcError(404, 'NotFound', path)
      return { body }
    },
  })
  const did = `did:web:localhost%3A${new URL(listener.url).port}`
  directory.setDocument(documentOf(did, data))
  webs.push(listener)
  return did
}

function labelerData(key: Keypair, url: string): IdentityData {
  return {
    alsoKnownAs: ['at://labels.test'],
    verificationMethods: { atproto_label: key.did() },
    services: { atproto_labeler: { type: 'AtprotoLabeler', endpoint: url } },
  }
}

function createKey(random: Random, curve: Curve): Promise<Keypair> {
  const secret = random.bytes(32)
  return curve === 'k256' ? Secp256k1Keypair.import(secret) : P256Keypair.import(secret)
}

/** Work given while other work runs waits its turn. */
function createQueue() {
  let tail: Promise<unknown> = Promise.resolve()
  return <T>(work: () => Promise<T>): Promise<T> => {
    const result = tail.then(work)
    tail = result.catch(() => undefined)
    return result
  }
}
