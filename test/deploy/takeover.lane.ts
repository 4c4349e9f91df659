/** The guide with containers: ours from docker-compose.prod.yml, the older workers from stand-ins. */
import { inject, test } from 'vitest'
import { wallClock } from '../../simulator/clock.ts'
import { startNetwork } from '../../simulator/network.ts'
import { openContainers } from '../takeover/containers.ts'
import type { Family } from '../takeover/older/family.ts'
import { play } from '../takeover/play.ts'
import { createTold } from '../takeover/told.ts'

test.each<Family>(['T', 'R'])(
  'from %s: every phase forward, back, and forward again ends in the rows of the model',
  { timeout: 20 * 60_000 },
  async (family) => {
    const told = createTold()
    await using network = await startNetwork({
      seed: `takeover ${family}`,
      address: inject('dock').gateway,
      clock: wallClock(7),
      pds: 2,
      onEvent: told.note,
    })
    await using stage = await openContainers(family, network, told)
    await play(stage)
  },
)
