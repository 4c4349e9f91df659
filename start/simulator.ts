/** The simulated network as a child process, and how the workers find it. */
import { type Child, endLeftChild, startChild } from './child.ts'
import { plainLine } from './plain.ts'

export interface SimulatedNetwork {
  relay: string
  plc: string
  pds: readonly string[]
  labeler: string | null
  handleResolver: string
  child: Child
}

const main = 'simulator/main.ts'
const readyWithinMs = 30_000

/** Starts the simulator and resolves when its hosts answer; throws when they do not within 30 s. */
export async function startSimulator(options: {
  env: Readonly<Record<string, string | undefined>>
  dir: string
  say: (text: string) => void
}): Promise<SimulatedNetwork> {
  const { env, dir, say } = options
  await endLeftChild(dir, 'simulator', main)
  const ready = Promise.withResolvers<Omit<SimulatedNetwork, 'child'>>()
  const child = await startChild({
    service: 'simulator',
    main,
    env,
    dir,
    onMessage: (message) => {
      const hosts = readHosts(message)
      if (hosts !== null) ready.resolve(hosts)
    },
    onLine: (line) => {
      const shown = line.startsWith('{') ? plainLine(line) : line
      if (shown !== null) say(`simulator: ${shown}`)
    },
  })
  const late = setTimeout(
    () => ready.reject(new Error('the simulator is not ready')),
    readyWithinMs,
  )
  void child.exited.then(() => ready.reject(new Error('the simulator ended while starting')))
  try {
    return { ...(await ready.promise), child }
  } catch (error) {
    await child.stop()
    throw error
  } finally {
    clearTimeout(late)
  }
}

function readHosts(message: unknown): Omit<SimulatedNetwork, 'child'> | null {
  const { ready } = (message ?? {}) as { ready?: Record<string, unknown> }
  if (typeof ready !== 'object' || ready === null) return null
  const pds = [ready['pds']].flat().map(String)
  const labeler = ready['labeler'] ? String(ready['labeler']) : null
  const handleResolver = String(ready['handleResolver'] ?? pds[0] ?? '')
  return { relay: String(ready['relay']), plc: String(ready['plc']), pds, labeler, handleResolver }
}
