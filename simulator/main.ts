/** The simulated network as a process: says where its hosts are, lives until it is told to stop. */
import { once } from 'node:events'
import { parseArgs } from 'node:util'
import { wallClock } from './clock.ts'
import { createControl } from './control.ts'
import { createWorld } from './living.ts'
import { startNetwork } from './network.ts'
import { openRecording, storedFrames } from './recording.ts'

const { values } = parseArgs({
  options: {
    /** Decides what happens; by default each run is another world. */
    seed: { type: 'string', default: String(Date.now()) },
    accounts: { type: 'string', default: '36' },
    older: { type: 'string', default: '24' },
    history: { type: 'string', default: '120' },
    /** Commits a second; of a recording, 0 is as fast as it is read. */
    rate: { type: 'string', default: '20' },
    /** A recording that is played in place of a life, as simulator/record.ts makes it. */
    play: { type: 'string' },
  },
})

const [accounts, older, history, rate] = [
  count('accounts'),
  count('older'),
  count('history'),
  count('rate'),
]
const stop = new AbortController()
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => stop.abort())
// The parent is gone: a simulated network without it has no reader.
process.on('disconnect', () => stop.abort())
// It may have gone while we were loading; without a parent's channel this is undefined.
if (process.connected === false) stop.abort()

await using network = await startNetwork({
  seed: values.seed,
  pds: 3,
  clock: wallClock(7),
  // Later runs give later positions, so that a cursor kept from an earlier run is never ahead.
  relay: values.play === undefined ? { firstSeq: Date.now() } : {},
  labelerFirstSeq: Date.now(),
})
const { relay, plc, pds, labeler, handleResolver } = network
const ready = {
  relay: relay.url,
  plc: plc.url,
  pds: pds.map(({ url }) => url),
  labeler: labeler.url,
  handleResolver: handleResolver.url,
  seed: values.seed,
}
const control = createControl(network)
process.on('message', (message) => {
  const answer = control(message)
  if (answer !== null) process.send?.(answer)
})
const tellReady = () => {
  if (process.send) process.send({ ready })
  else console.log(JSON.stringify({ ready }))
}
if (values.play === undefined) await live()
else await play(values.play)
if (process.connected) process.disconnect()

async function live(): Promise<void> {
  // Once in some half a minute of the default rate each kind of change befalls an account.
  const world = createWorld(network, { changesEvery: 5 })
  await world.populate({ accounts: 0, older, history })
  tellReady()
  await world.populate({ accounts, older: 0, history: 0 })
  await world.live({ rate: Math.max(rate, 0.01), signal: stop.signal })
}

/** Stays until it is told to stop: readers may come back for what they have missed. */
async function play(path: string): Promise<void> {
  for (const document of (await openRecording(path)).documents) plc.serve(document)
  tellReady()
  const stopped = stop.signal.aborted ? null : once(stop.signal, 'abort')
  await Promise.race([relay.subscribed(), stopped])
  await relay.play(storedFrames(path), { signal: stop.signal, ...(rate > 0 && { rate }) })
  await stopped
}

function count(name: 'accounts' | 'older' | 'history' | 'rate'): number {
  const number = Number(values[name])
  if (Number.isFinite(number) && number >= 0) return number
  console.error(`--${name} is a number, not ${JSON.stringify(values[name])}`)
  process.exit(2)
}
