/** One run of crashes, from a new network to the comparison of all tables with the model. */
import { hitTable, runChains } from './chain.ts'
import { openRoom, type RoomOptions, streamNames } from './room.ts'
import { expectBalance, expectDeadLetters, expectModel, settle } from './settle.ts'
import type { Target } from './targets.ts'

/** Hits each target so often, prints the table of hits, and fails where a law is broken. */
export async function crash(
  targets: readonly Target[],
  times: number,
  options: RoomOptions,
): Promise<void> {
  await using room = await openRoom(options)
  const started = performance.now()
  const hits = await runChains(room, { targets, times })
  const seconds = Math.round((performance.now() - started) / 1_000)
  console.log(`${hitTable(hits)}, in ${seconds} s`)
  await settle(room)
  const ledgers = await expectBalance(room)
  await expectDeadLetters(room)
  await expectModel(room)
  for (const stream of streamNames) {
    const { added, applied, stale, refused, dead } = ledgers[stream]
    const of = (counts: Record<string, number>) => JSON.stringify(counts)
    const put = `${room.requeued[stream]} put back`
    console.log(
      `${stream}: ${added} entries, ${applied} applied, ${stale} stale, refused ${of(refused)}, dead ${of(dead)}, ${put}`,
    )
  }
}
