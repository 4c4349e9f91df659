/** How fast the simulated network is: commits made a second, and frames of a recording read a second. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startNetwork } from '../simulator/network.ts'
import { record, storedFrames } from '../simulator/recording.ts'

const steps = Number(process.argv[2] ?? 10_000)
const folder = await mkdtemp(join(tmpdir(), 'sluice-simulator-'))
const path = join(folder, 'frames')
try {
  const began = performance.now()
  const { frames, commits } = await record(path, { seed: 'bench', accounts: 300, steps })
  const seconds = (performance.now() - began) / 1_000
  const { size } = await stat(path)
  console.log(
    `recorded ${commits} commits of 300 accounts in ${seconds.toFixed(1)} s:`,
    `${Math.round(commits / seconds)} commits/s made,`,
    `${Math.round(size / frames)} bytes a frame`,
  )
  await play(commits)
} finally {
  await rm(folder, { recursive: true, force: true })
}

/** A reader in a process of its own, as the ingester is: what is measured is this one's core. */
async function play(commits: number): Promise<void> {
  await using network = await startNetwork()
  const { relay } = network
  const reader = spawn(process.execPath, ['-e', readerOf(relay.url, commits)], {
    stdio: ['ignore', 'inherit', 'inherit'],
    cwd: import.meta.dirname,
  })
  await relay.subscribed()
  const cpu = process.cpuUsage()
  const began = performance.now()
  await relay.play(storedFrames(path))
  await relay.delivered()
  const seconds = (performance.now() - began) / 1_000
  const { user, system } = process.cpuUsage(cpu)
  const busy = (user + system) / 1e6
  console.log(
    `played ${commits} commits in ${seconds.toFixed(2)} s: ${Math.round(commits / seconds)} commits/s,`,
    `${Math.round(commits / busy)} a second of one core`,
  )
  await once(reader, 'exit')
}

/** Counts what arrives, and ends when all of it has. */
function readerOf(url: string, commits: number): string {
  const socket = JSON.stringify(`${url.replace('http', 'ws')}/xrpc/com.atproto.sync.subscribeRepos`)
  return `const { WebSocket } = require('ws'); let n = 0
const socket = new WebSocket(${socket}, { perMessageDeflate: false })
socket.on('message', (data) => {
  if (data.subarray(0, 24).includes('#commit') && ++n === ${commits}) {
    console.log('the reader got every commit')
    socket.terminate()
  }
})`
}
