/**
 * The reference network as a process: directory, PDS, bsync, ozone, the reference's indexer and AppView, and a
 * second AppView on a database that somebody else fills. Commands come over IPC: `{id, name, args}`.
 * Argument: JSON with `databaseUrl`, `ports`, and `peer` (`databaseUrl`, `schema`).
 */
import * as bsky from '@atproto/bsky'
import { Secp256k1Keypair } from '@atproto/crypto'
import {
  authorFeedSeed,
  basicSeed,
  followsSeed,
  mockResolvers,
  quotesSeed,
  repostsSeed,
  TestNetwork,
  usersBulkSeed,
} from '@atproto/dev-env'

// The package does not export it.
const threadSeeds = await import('./node_modules/@atproto/dev-env/dist/seed/thread-v2.js')

const given = JSON.parse(process.argv[2])
const { ports } = given
const network = await TestNetwork.create({
  dbPostgresUrl: given.databaseUrl,
  dbPostgresSchema: 'reference',
  plc: { port: ports.plc },
  pds: { port: ports.pds, hostname: 'localhost' },
  bsky: { port: ports.bsky },
  ozone: { port: ports.ozone },
})
// Found to wait up to a second after a pause; every wait of ours is for an event of its.
network.pds.ctx.sequencer.exponentialBackoff = () => new Promise((done) => setTimeout(done, 5))
const peer = await startPeer(given.peer)

/** An unmodified data plane and AppView on this database, and its subscription to bsync: no indexer. */
async function startPeer({ databaseUrl, schema }) {
  const db = new bsky.Database({ url: databaseUrl, schema, poolSize: 10 })
  const dataplane = await bsky.DataPlaneServer.create(
    db,
    ports.peerDataplane,
    network.plc.url,
    globalThis.fetch,
  )
  mockResolvers(dataplane.idResolver, network.pds)
  const values = network.bsky.ctx.cfg.cfg
  const config = new bsky.ServerConfig({
    ...values,
    port: ports.peer,
    dataplaneUrls: [`http://localhost:${ports.peerDataplane}`],
    etcdHosts: [],
  })
  const signingKey = await Secp256k1Keypair.create()
  const server = bsky.BskyAppView.create({ config, signingKey })
  const bsync = new bsky.BsyncSubscription({ config, db })
  await server.start()
  bsync.start()
  return { bsync, url: `http://localhost:${ports.peer}` }
}

/** Resolves when the reference has indexed all that the PDS has said, and both know what bsync has. */
async function settle() {
  await network.processAll(20_000)
  await peer.bsync.processAll(await network.bsync.getStreamHeads(), 20_000)
}

const writes = [
  ...['post', 'reply', 'like', 'repost', 'follow', 'unfollow', 'block', 'unblock', 'deletePost'],
  ...['createProfile', 'updateProfile', 'updateHandle', 'createFeedGen', 'createList', 'addToList'],
  ...['rmFromList', 'createStarterPack', 'verify', 'unverify', 'mute'],
]

/** A client for one seed: its accounts get names of its own, and the reference sees its writes in order. */
function seedClient(prefix) {
  const client = network.getSeedClient()
  const create = client.createAccount.bind(client)
  client.createAccount = (name, account) =>
    create(name, {
      ...account,
      handle: `${prefix}${account.handle}`,
      email: `${prefix}${account.email}`,
    })
  for (const name of writes) {
    const write = client[name].bind(client)
    client[name] = async (...args) => {
      const written = await write(...args)
      await settle()
      return written
    }
  }
  return client
}

/** The reference's own seeds, by name. `likes` is ours: theirs is not in the package. */
const seeds = {
  basic: basicSeed,
  reposts: repostsSeed,
  quotes: quotesSeed,
  'author-feed': authorFeedSeed,
  follows: followsSeed,
  'users-bulk': (client) => usersBulkSeed(client, 12),
  likes: likesSeed,
  ...Object.fromEntries(threads().map((name) => [`thread-${name}`, threadSeeds[name]])),
}

function threads() {
  // `tags` writes to the reference's database by hand.
  return ['simple', 'long', 'deep', 'branchingFactor', 'annotateMoreReplies', 'annotateOP', 'sort']
    .concat(['bumpOpAndViewer', 'bumpGroupSorting', 'bumpFollows', 'mutes', 'threadgated'])
    .concat(['blockDeletionAuth'])
}

/** Everybody likes every post of one account, some take it back, and some like again. */
async function likesSeed(client) {
  await basicSeed(client)
  const { alice, bob, carol, dan } = client.dids
  for (const post of client.posts[alice]) {
    for (const did of [bob, carol, dan]) await client.like(did, post.ref)
  }
  for (const did of [carol, dan]) {
    const uri = Object.values(client.likes[did])[0]
    await client.agent.api.app.bsky.feed.like.delete(
      { repo: did, rkey: uri.rkey },
      client.getHeaders(did),
    )
  }
  await settle()
  await client.like(carol, client.posts[alice][1].ref)
}

const moderator = network.ozone.getModClient()

const commands = {
  settle,
  /** Runs a seed; gives the DIDs of its accounts by name. */
  seed: async (name) => {
    // These have names that nobody else has.
    const prefix = /^(thread|users)-/.test(name) ? '' : `${name}-`
    const client = seedClient(prefix)
    const mod = network.bsky.ctx.cfg.modServiceDid
    await seeds[name](client, name === 'thread-blockDeletionAuth' ? mod : undefined)
    await settle()
    return client.dids
  },
  seedNames: async () => Object.keys(seeds),
  serviceAuth: async (did, method) => (await network.serviceHeaders(did, method)).authorization,
  /** Emits a moderation event, as a moderator does in ozone. */
  moderate: async (event, subject) => {
    await moderator.emitEvent({ event, subject, createdBy: 'did:example:admin' })
    await network.ozone.processAll()
  },
  lastSeq: () => network.pds.ctx.sequencer.curr(),
}

process.on('message', async ({ id, name, args }) => {
  try {
    process.send({ id, result: (await commands[name](...args)) ?? null })
  } catch (error) {
    process.send({ id, error: error?.stack ?? String(error) })
  }
})
// The test is gone: nothing here is kept.
process.on('disconnect', () => process.exit(0))

process.send({
  ready: {
    plc: network.plc.url,
    pds: network.pds.url,
    bsky: network.bsky.url,
    ozone: network.ozone.url,
    peer: peer.url,
    labelers: network.bsky.ctx.cfg.labelsFromIssuerDids,
    moderation: network.bsky.ctx.cfg.modServiceDid,
    adminPassword: network.bsky.ctx.cfg.adminPasswords[0],
  },
})
