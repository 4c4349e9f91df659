/** Faults of a simulated network, switched by messages of the process that started it. */
import type { FaultKind } from './faults.ts'
import type { Network } from './network.ts'
import type { Fault } from './switches.ts'

/** What may be asked of the network; each ask has a number that comes back with its answer. */
export type Ask =
  /** Cuts the connection of every reader of the relay. Answers how many there were. */
  | { ask: number; do: 'cut' }
  /** Every PDS spoils its answers to this XRPC method from now on. Answers the fault's number. */
  | { ask: number; do: 'fault'; method: string; fault: FaultKind }
  /** Ends a fault. Answers how often it has fired. */
  | { ask: number; do: 'clear'; fault: number }

export interface Answer {
  answer: number
  count: number
}

/** Does what a message asks for and gives the answer to send back; null for any other message. */
export function createControl(network: Network): (message: unknown) => Answer | null {
  const faults: Fault[][] = []
  const count = (ask: Ask): number => {
    switch (ask.do) {
      case 'cut': {
        const { readers } = network.relay
        network.relay.disconnect()
        return readers
      }
      case 'fault':
        faults.push(network.pds.map((pds) => pds.fault({ method: ask.method }, ask.fault)))
        return faults.length - 1
      case 'clear': {
        const cleared = faults[ask.fault] ?? []
        for (const fault of cleared) fault.clear()
        return cleared.reduce((sum, { fired }) => sum + fired, 0)
      }
    }
  }
  return (message) => (isAsk(message) ? { answer: message.ask, count: count(message) } : null)
}

function isAsk(message: unknown): message is Ask {
  return typeof message === 'object' && message !== null && 'ask' in message && 'do' in message
}
