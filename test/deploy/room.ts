/** A stack of containers that follows a living network: what the lane's tests begin with. */
import { inject } from 'vitest'
import { wallClock } from '../../simulator/clock.ts'
import { createWorld } from '../../simulator/living.ts'
import { createHeard } from '../../simulator/model/heard.ts'
import { type Network, startNetwork } from '../../simulator/network.ts'
import { type Life, leftOut, startLife } from '../living-room.ts'
import { openStack, type Stack, type StackOptions } from './stack.ts'

export interface DeployRoom extends AsyncDisposable {
  readonly network: Network
  readonly stack: Stack
  readonly life: Life
}

/** Starts all containers, in their order, and then the network's life. */
export async function openDeployRoom(
  seed: string,
  options: Omit<StackOptions, 'network'> = {},
): Promise<DeployRoom> {
  const resources = new AsyncDisposableStack()
  try {
    const heard = createHeard()
    const network = resources.use(
      await startNetwork({
        seed,
        address: inject('dock').gateway,
        clock: wallClock(7),
        pds: 2,
        onEvent: heard.note,
      }),
    )
    // The identity of a did:web would be on loopback.
    const world = createWorld(network, { without: leftOut, web: false })
    await world.populate({ accounts: 12, older: 4, history: 30 })
    const stack = resources.use(await openStack({ ...options, network }))
    const { compose, redis, sql } = stack
    await compose('up', '--detach')
    await redis.connect()
    const life = resources.use(startLife({ network, world, heard, redis, sql, rate: 10 }))
    return { network, stack, life, [Symbol.asyncDispose]: () => resources.disposeAsync() }
  } catch (error) {
    await resources.disposeAsync()
    throw error
  }
}
