/**
 * Memory of the ingester over time, with Redis stopped for a while in the middle:
 * `node bench/soak.ts [minutes] [events a second] [seconds that Redis stands still]`.
 */
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { chainKey } from '../shared/streams/names.ts'
import { makeCommits } from './commits.ts'
import { startFollowing } from './following.ts'

const [minutes = 10, rate = 5_000, pause = 60] = process.argv.slice(2).map(Number)
const frames = 30_000
const sampleMs = 5_000
/** What the readers of the stream would have taken away by then. */
const keptEntries = 50_000
const path = join(tmpdir(), `sluice-soak-${process.pid}`)

await makeCommits(path, frames)
const rounds = Math.ceil((minutes * 60 * rate) / frames)
try {
  const following = await startFollowing({ path, rate, rounds })
  await using _ = following
  const { redis, redisPid } = following
  const began = Date.now()
  const seconds = () => Math.round((Date.now() - began) / 1_000)
  const pauseAt = (minutes * 60) / 3
  let paused = 'not yet' as 'not yet' | 'now' | 'over'
  let round = 0
  const samples: { at: number; memory: number; paused: typeof paused }[] = []
  const sample = () => {
    samples.push({ at: seconds(), memory: Math.round(following.memory()), paused })
  }
  while (seconds() < minutes * 60 + 2 * pause) {
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
    const done = await following.done()
    if (done >= rounds * frames) break
    await redis.xtrim('firehose_live', 'MAXLEN', '~', keptEntries)
    // The same commits come again: with a new epoch they are no duplicates.
    for (; round < Math.floor(done / frames); round++) await redis.hincrby(chainKey, 'epoch', 1)
  }
  const of = (what: typeof paused) => {
    const memories = samples.filter(({ paused }) => paused === what).map(({ memory }) => memory)
    return `${Math.min(...memories)} to ${Math.max(...memories)} MB`
  }
  const appended = await following.metric('ingester_stream_events_total')
  console.log(
    `${await following.done()} of ${rounds * frames} frames in ${seconds()} s, ${appended} entries;`,
    `before the pause ${of('not yet')}, in it ${of('now')}, after it ${of('over')}`,
  )
  console.log(samples.map(({ at, memory }) => `${at}s ${memory}`).join('  '))
} finally {
  await rm(path, { force: true })
  await rm(`${path}.json`, { force: true })
}
