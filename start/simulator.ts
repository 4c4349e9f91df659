/** The simulated network as a child process, and how the workers find it. */
import type { Answer, Ask } from '../simulator/control.ts'
import { type Child, endLeftChild, startChild } from './child.ts'
import { plainLine } from './plain.ts'

export interface SimulatedNetwork {
  relay: string
  plc: string
  pds: readonly string[]
  labeler: string | null
  handleResolver: string
  child: Child
  /** Asks something of the network and gives the count it answers; 0 from one that is gone. */
  ask(ask: AskOf<Ask>): Promise<number>
}

type AskOf<A> = A extends { ask: number } ? Omit<A, 'ask'> : never
type Hosts = Omit<SimulatedNetwork, 'child' | 'ask'>

const main = 'simulator/main.ts'
const readyWithinMs = 90_000

/** Starts the simulator and resolves when its hosts answer; throws when they do not within 90 s, or the signal aborts. */
export async function startSimulator(options: {
  env: Readonly<Record<string, string | undefined>>
  dir: string
  /** As simulator/main.ts takes them. */
  args?: readonly string[]
  say: (text: string) => void
  /** Gives up waiting for it. */
  signal: AbortSignal
}): Promise<SimulatedNetwork> {
  const { env, dir, args = [], say, signal } = options
  await endLeftChild(dir, 'simulator', main)
  const ready = Promise.withResolvers<Hosts>()
  const waiting = new Map<number, (count: number) => void>()
  const child = await startChild({
    service: 'simulator',
    main,
    args,
    env,
    dir,
    onMessage: (message) => {
      const answer = readAnswer(message)
      if (answer !== null) waiting.get(answer.answer)?.(answer.count)
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
  const giveUp = () => ready.reject(signal.reason)
  signal.addEventListener('abort', giveUp, { once: true })
  if (signal.aborted) giveUp()
  const exited = child.exited.then(() => {
    ready.reject(new Error('the simulator ended while starting'))
    return 0
  })
  let asked = 0
  const ask: SimulatedNetwork['ask'] = (wish) => {
    const number = ++asked
    const answer = new Promise<number>((resolve) => waiting.set(number, resolve))
    child.send({ ...wish, ask: number })
    return Promise.race([answer, exited]).finally(() => waiting.delete(number))
  }
  try {
    return { ...(await ready.promise), child, ask }
  } catch (error) {
    await child.stop()
    throw error
  } finally {
    clearTimeout(late)
    signal.removeEventListener('abort', giveUp)
  }
}

function readAnswer(message: unknown): Answer | null {
  if (typeof message !== 'object' || message === null || !('answer' in message)) return null
  return message as Answer
}

function readHosts(message: unknown): Hosts | null {
  const { ready } = (message ?? {}) as { ready?: Record<string, unknown> }
  if (typeof ready !== 'object' || ready === null) return null
  const pds = [ready['pds']].flat().map(String)
  const labeler = ready['labeler'] ? String(ready['labeler']) : null
  const handleResolver = String(ready['handleResolver'] ?? pds[0] ?? '')
  return { relay: String(ready['relay']), plc: String(ready['plc']), pds, labeler, handleResolver }
}
