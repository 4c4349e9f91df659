/**
 * Memory of the ingester over time, with a million keys in it and Redis stopped for a while in the middle:
 * `node bench/soak.ts [minutes] [events a second] [seconds that Redis stands still] [accounts]`.
 * Fails where a frame was lost, or where memory or keys are not what is promised.
 */
import { existsSync } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { chainKey } from '../shared/streams/names.ts'
import { makeSyncs, storeKeys } from './accounts.ts'
import { makeCommits } from './commits.ts'
import { reached, startFollowing } from './following.ts'

const given = process.argv.slice(2).map(Number)
/** The cache keeps a million of some more: in a place where many fall one gives way. */
const [minutes = 10, rate = 5_000, pause = 60, accounts = 1_050_000] = given
const mostMb = 400
const frames = 30_000
const sampleMs = 5_000
/** What the readers of the stream would have taken away by then. */
const keptEntries = 50_000
const path = join(tmpdir(), `sluice-soak-${process.pid}`)

const syncs = join(tmpdir(), `sluice-bench-syncs-${accounts}`)

if (!existsSync(syncs)) {
  await makeSyncs(path, accounts)
  await rename(path, syncs)
}
await makeCommits(path, frames)
const rounds = Math.ceil((minutes * 60 * rate) / frames)
try {
  await using following = await startFollowing({
    ...{ path, rate, rounds },
    first: syncs,
    prepare: (redis) => storeKeys(redis, accounts),
  })
  const { redis, redisPid } = following
  const atRest = Math.round(following.memory())
  await reached(following, accounts)
  const cached = await following.metric('ingester_identities_cached')
  const began = Date.now()
  const seconds = () => Math.round((Date.now() - began) / 1_000)
  const pauseAt = (minutes * 60) / 3
  let paused = 'not yet' as 'not yet' | 'now' | 'over'
  let round = 0
  const samples: { at: number; memory: number; paused: typeof paused }[] = []
  const sample = () => {
    samples.push({ at: seconds(), memory: Math.round(following.memory()), paused })
  }
  // Busy cores make it late; what is lost never comes.
  while (seconds() < minutes * 120 + 2 * pause) {
    await sleep(sampleMs)
    sample()
    if (paused === 'now') {
      if (seconds() < pauseAt + pause) continue
      process.kill(redisPid, 'SIGCONT')
      paused = 'over'
    } else if (paused === 'not yet' && seconds() >= pauseAt) {
      process.kill(redisPid, 'SIGSTOP')
      paused = 'now'
      continue
    }
    const done = (await following.done()) - accounts
    if (done >= rounds * frames) break
    await redis.xtrim('firehose_live', 'MAXLEN', '~', keptEntries)
    // The same commits come again: with a new epoch they are no duplicates.
    for (; round < Math.floor(done / frames); round++) await redis.hincrby(chainKey, 'epoch', 1)
  }
  const of = (what: typeof paused) => {
    const memories = samples.filter(({ paused }) => paused === what).map(({ memory }) => memory)
    return `${Math.min(...memories)} to ${Math.max(...memories)} MB`
  }
  const done = (await following.done()) - accounts
  const highest = Math.max(...samples.map(({ memory }) => memory))
  console.log(
    `${done} of ${rounds * frames} frames in ${seconds()} s, ${cached} keys cached, at rest ${atRest} MB;`,
    `before the pause ${of('not yet')}, in it ${of('now')}, after it ${of('over')}`,
  )
  console.log(samples.map(({ at, memory }) => `${at}s ${memory}`).join('  '))
  const failed = [
    ...(done < rounds * frames ? ['frames are missing'] : []),
    ...(cached < accounts * 0.95 ? ['keys are missing'] : []),
    ...(highest > mostMb ? [`more than ${mostMb} MB`] : []),
  ]
  if (failed.length > 0) throw new Error(failed.join(', '))
} finally {
  await rm(path, { force: true })
  await rm(`${path}.json`, { force: true })
}
