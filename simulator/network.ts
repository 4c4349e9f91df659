/** A small AT Protocol network, on loopback unless told otherwise: directory, PDSes, relay, labeler, accounts. */
import type { Keypair } from '@atproto/crypto'
import type { LexMap } from '@atproto/lex-data'
import { Account, type ExpectedRecord } from './account.ts'
import { type Clock, steppedClock } from './clock.ts'
import { createDirectory, type Directory } from './directory.ts'
import { accountData } from './documents.ts'
import { createFaults } from './faults.ts'
import { type Labeler, startLabeler } from './labeler.ts'
import { type Pds, type RateLimit, startPds } from './pds.ts'
import { type HandleResolver, type Plc, startHandleResolver, startPlc } from './plc.ts'
import { createRandom, type Random } from './random.ts'
import { type Curve, createKey, createRegistrar, type IdentityData } from './registrar.ts'
import { type CrawledHost, type Relay, type RelayOptions, startRelay } from './relay.ts'
import type { HostedRepo } from './repos.ts'
import type { Fault } from './switches.ts'

/** A relay of the network. */
export interface RelaySettings extends Omit<RelayOptions, 'clock' | 'repos' | 'hosts'> {
  /** Numbers of the PDSes that it crawls; default all. */
  pds?: readonly number[]
}

export interface NetworkOptions {
  /** Decides keys, DIDs and all else that is drawn; default `sluice`. */
  seed?: string
  /** How many PDSes; default 1. */
  pds?: number
  rateLimit?: RateLimit
  /** The only relay; for more there is `relays`. */
  relay?: RelaySettings
  relays?: readonly [RelaySettings, ...RelaySettings[]]
  /** The labeler's first seq; default 1. */
  labelerFirstSeq?: number
  /** Default: starts 2026-01-01 and moves 1 ms at each reading, so that a run is the same every time. */
  clock?: Clock
  /** Where every host is, but those of did:web; default 127.0.0.1. */
  address?: string
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

/** What is true of an account now. */
export interface AccountState {
  did: string
  handle: string
  active: boolean
  /** Why it is not active: deactivated, suspended, takendown, deleted. */
  status: string | null
  /** URL of its PDS. */
  pds: string
  signingKey: string
  rev: string | null
  /** No relay has heard of it. */
  quiet: boolean
}

export interface Network extends AsyncDisposable {
  readonly directory: Directory
  readonly plc: Plc
  /** The first of the relays. */
  readonly relay: Relay
  readonly relays: readonly [Relay, ...Relay[]]
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
  /** What is true of every account, deleted ones too, in the order in which they were made. */
  states(): Map<string, AccountState>
  /** Sends `#identity` with the handle that the directory has. */
  emitIdentity(did: string): void
  /** From now on the PDS says so; sends `#account`. Throws a RangeError for an unknown account. */
  emitAccount(did: string, status: { active: boolean; status?: string }): void
  /** Sends `#sync` with the newest commit. */
  emitSync(did: string): Promise<void>
  /** Changes the handle, the signing key, the rotation key in the directory, then sends `#identity`. */
  changeIdentity(did: string, change: IdentityChange): Promise<void>
  /** Moves an active account: the repo, with a new signing key, lives there, and is deactivated here. */
  migrate(did: string, to: Pds, options?: { curve?: Curve }): Promise<void>
  /** An account that was not active is so again: sends `#account`, `#identity`, `#sync`. */
  reactivate(did: string): Promise<void>
  /** Sends `#account` with `deleted`; its records are gone, with `identity` its DID as well. */
  deleteAccount(did: string, options?: { identity?: boolean }): Promise<void>
  /** Every fault that was ever switched on, at any host. */
  faults(): Fault[]
  /** Stops everything: no port, socket or timer is left. */
  close(): Promise<void>
}

export interface IdentityChange {
  handle?: string
  /** Makes a new signing key. */
  curve?: Curve
  /** Makes a new rotation key; of did:plc only. */
  rotation?: boolean
}

/** Starts a network on free ports. */
export async function startNetwork(options: NetworkOptions = {}): Promise<Network> {
  const { address } = options
  const clock = options.clock ?? steppedClock(Date.UTC(2026, 0, 1), 1, 7)
  const random = createRandom(options.seed ?? 'sluice')
  const directory = createDirectory()
  const serial = createQueue()
  const accounts = new Map<string, Account>()
  const homes = new Map<string, Pds>()
  let unnamed = 0

  const chance = random.fork('faults')
  const faultsOf = (host: string) => createFaults(chance, host)
  const plc = await startPlc(directory, faultsOf('plc'), address)
  const handleResolver = await startHandleResolver(directory, faultsOf('handle resolver'), address)
  const limits = options.rateLimit && { rateLimit: options.rateLimit }
  const first = await startPds({ directory, address, faults: faultsOf('pds'), ...limits })
  const pds: [Pds, ...Pds[]] = [first]
  while (pds.length < (options.pds ?? 1)) {
    const faults = faultsOf(`pds ${pds.length + 1}`)
    pds.push(await startPds({ directory, address, faults, ...limits }))
  }
  const registrar = await createRegistrar({ directory, clock, random })
  const sent = new Map<Pds, number>()

  /** All repos in the order in which they were met first, each as its present host has it. */
  const met = new Map<string, Pds>()
  const reposOf = (crawled: readonly Pds[]): HostedRepo[] => {
    for (const host of pds) {
      for (const { did } of host.repos()) met.set(did, homes.get(did) ?? host)
    }
    return [...met].flatMap(([did, host]) => {
      const repo = crawled.includes(host) ? host.repo(did) : null
      return repo === null ? [] : [repo]
    })
  }
  const hostOf = (host: Pds): CrawledHost => ({
    hostname: host.host,
    seq: sent.get(host) ?? 0,
    accountCount: [...host.repos()].length,
    status: 'active',
  })
  const openRelay = async ({ pds: numbers, ...settings }: RelaySettings) => {
    const crawled = pds.filter((_, number) => numbers?.includes(number) ?? true)
    const repos = () => reposOf(crawled)
    const hosts = () => crawled.map(hostOf)
    return {
      relay: await startRelay({ random: chance, address, ...settings, clock, repos, hosts }),
      crawled,
    }
  }
  const [firstSettings, ...otherSettings] = options.relays ?? [options.relay ?? {}]
  const firstCrawler = await openRelay(firstSettings)
  const crawlers = [firstCrawler]
  for (const settings of otherSettings) {
    const name = `relay ${crawlers.length + 1}`
    crawlers.push(await openRelay({ name, ...settings }))
  }
  const { relay } = firstCrawler
  const relays: Network['relays'] = [relay, ...crawlers.slice(1).map(({ relay }) => relay)]
  const labelKey = await createKey(random.fork('labeler'), 'k256')
  const labeler = await startLabeler({
    clock,
    address,
    key: labelKey,
    faults: faultsOf('labeler'),
    random: chance,
    identify: (url) => registrar.register(labelerData(labelKey, url), 'plc'),
    ...(options.labelerFirstSeq !== undefined && { firstSeq: options.labelerFirstSeq }),
  })

  /** A host's event, to every relay that crawls it. */
  const broadcast = (did: string, type: string, body: LexMap) => {
    const home = homeOf(did)
    const time = clock.iso()
    sent.set(home, (sent.get(home) ?? 0) + 1)
    options.onEvent?.(type, body)
    for (const { relay, crawled } of crawlers) {
      if (crawled.includes(home)) relay.emit(type, body, time)
    }
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
    broadcast(did, '#identity', { did, handle: find(did).handle })
  }
  const emitAccount: Network['emitAccount'] = (did, { active, status }) => {
    homeOf(did).setStatus(did, { active, status: status ?? null })
    broadcast(did, '#account', { did, active, ...(status !== undefined && { status }) })
  }
  const emitSync = async (did: string) => broadcast(did, '#sync', await find(did).syncBody())

  const account = async (options: NewAccount = {}): Promise<Account> => {
    const { method = 'plc', curve = 'k256', pds: home = first, quiet = false } = options
    const handle = options.handle ?? `account${++unnamed}.test`
    const key = await createKey(random.fork(`key/${handle}`), curve)
    const data = accountData({ signingKey: key.did(), handle, pds: home.url })
    const did = await registrar.register(data, method)
    let announced = quiet
    // The first commit is announced when the PDS can already answer for it.
    const emit = (type: string, body: LexMap) => {
      if (!announced) {
        announced = true
        home.adopt(made)
        emitIdentity(did)
        broadcast(did, '#account', { did, active: true })
      }
      broadcast(did, type, body)
    }
    const made = new Account({ did, handle, key, clock, quiet, serial, emit })
    accounts.set(did, made)
    homes.set(did, home)
    await made.applyWrites([])
    if (quiet) home.adopt(made)
    else await emitSync(did)
    return made
  }

  /** Tells the directory what the account is now. */
  const publish = (did: string, rotate = false) => {
    const { signingKey, handle } = find(did)
    const data = accountData({ signingKey, handle, pds: homeOf(did).url })
    return registrar.amend(did, data, { rotate })
  }
  const newKey = (did: string, curve: Curve) =>
    createKey(random.fork(`key/${did}/${clock.now()}`), curve)
  const changeIdentity: Network['changeIdentity'] = async (did, { handle, curve, rotation }) => {
    const changed = find(did)
    if (curve !== undefined) changed.key = await newKey(did, curve)
    changed.handle = handle ?? changed.handle
    await publish(did, rotation)
    emitIdentity(did)
  }

  const announce = async (did: string) => {
    emitAccount(did, { active: true })
    emitIdentity(did)
    await emitSync(did)
  }
  const migrate: Network['migrate'] = async (did, to, { curve = 'k256' } = {}) => {
    const moving = find(did)
    const from = homeOf(did)
    if (from === to) throw new RangeError(`${did} already lives there`)
    if (from.repo(did)?.active !== true) throw new RangeError(`${did} is not active`)
    moving.key = await newKey(did, curve)
    await moving.resign()
    to.adopt(moving)
    homes.set(did, to)
    await publish(did)
    from.setStatus(did, { active: false, status: 'deactivated' })
    if (!moving.quiet) await announce(did)
  }
  const deleteAccount: Network['deleteAccount'] = async (did, { identity = false } = {}) => {
    const gone = find(did)
    const status = { active: false, status: 'deleted' }
    if (gone.quiet) homeOf(did).setStatus(did, status)
    else emitAccount(did, status)
    if (identity) await registrar.end(did)
    await gone.erase()
  }

  const records = () => {
    const all = new Map<string, ExpectedRecord>()
    for (const [did, account] of accounts) {
      if (homeOf(did).repo(did)?.status === 'deleted') continue
      for (const [uri, record] of account.records()) all.set(uri, record)
    }
    return all
  }
  const states = () => {
    const all = new Map<string, AccountState>()
    for (const [did, { handle, signingKey, rev, quiet }] of accounts) {
      const home = homeOf(did)
      const { active, status } = home.repo(did) ?? { active: true, status: null }
      all.set(did, { did, handle, active, status, pds: home.url, signingKey, rev, quiet })
    }
    return all
  }

  const close = async () => {
    const parts = [...relays, labeler, ...pds, handleResolver, plc, registrar]
    await Promise.all(parts.map((part) => part.close()))
  }

  return {
    directory,
    plc,
    relay,
    relays,
    pds,
    labeler,
    handleResolver,
    clock,
    random,
    accounts,
    account,
    records,
    states,
    emitIdentity,
    emitAccount,
    emitSync,
    changeIdentity,
    migrate,
    reactivate: announce,
    deleteAccount,
    faults: () =>
      [...relays, labeler, ...pds, handleResolver, plc].flatMap(({ faults }) => [...faults]),
    close,
    [Symbol.asyncDispose]: close,
  }
}

function labelerData(key: Keypair, url: string): IdentityData {
  return {
    alsoKnownAs: ['at://labels.test'],
    verificationMethods: { atproto_label: key.did() },
    services: { atproto_labeler: { type: 'AtprotoLabeler', endpoint: url } },
  }
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
