/**
 * A relay that does nothing but send a file of frames, so that it costs its readers little:
 * `node bench/replay.ts <file> [frames a second] [rounds] [frames] [first file]`. What is in the first
 * file goes before all else, as fast as it is read. Tells its parent where it listens, and at last when
 * each frame of the last round was sent.
 */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** Its seqs take eight bytes each, so that those of another round can stand in their places. */
export const firstSeq = 2 ** 32
const seqForm = Buffer.from('637365711b0000000100000000', 'hex')
const webSocketKey = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
const framesAtOnce = 64
/** Between two looks at the clock, where a rate is given. */
const paceMs = 4

/** The bytes of a WebSocket message from a server. */
export function framed(payload: Uint8Array): Buffer {
  const { length } = payload
  const head = Buffer.alloc(length < 126 ? 2 : length < 65_536 ? 4 : 10)
  head[0] = 0x82
  head[1] = length < 126 ? length : length < 65_536 ? 126 : 127
  if (head.length === 4) head.writeUInt16BE(length, 2)
  if (head.length === 10) head.writeBigUInt64BE(BigInt(length), 2)
  return Buffer.concat([head, payload])
}

interface Message {
  bytes: Buffer
  /** Where its seq is. */
  seqAt: number
}

function messagesOf(file: Buffer): Message[] {
  const messages: Message[] = []
  for (let at = 0; at < file.length; ) {
    const form = file[at + 1] ?? 0
    const head = form === 127 ? 10 : form === 126 ? 4 : 2
    const wide = form === 127 ? Number(file.readBigUInt64BE(at + 2)) : file.readUInt16BE(at + 2)
    const end = at + head + (form < 126 ? form : wide)
    const bytes = file.subarray(at, end)
    messages.push({ bytes, seqAt: bytes.indexOf(seqForm) + 5 })
    at = end
  }
  return messages
}

interface Program {
  first: readonly Message[]
  messages: readonly Message[]
  rate: number
  rounds: number
}

/** Sends all messages in each round, with seqs from `firstSeq` on; gives when those of the last were sent. */
async function send(socket: Socket, { first, messages, rate, rounds }: Program) {
  await sendRounds(socket, { messages: first, rate: 0, rounds: 1, from: 0 })
  return sendRounds(socket, { messages, rate, rounds, from: first.length })
}

async function sendRounds(
  socket: Socket,
  { messages, rate, rounds, from }: Omit<Program, 'first'> & { from: number },
) {
  const sentAt: number[] = []
  const began = performance.now()
  let sent = 0
  for (let round = 0; round < rounds; round++) {
    for (let index = 0; index < messages.length; ) {
      const due =
        rate > 0 ? Math.ceil(((performance.now() - began) / 1_000) * rate) - sent : framesAtOnce
      if (due <= 0) {
        await sleep(paceMs)
        continue
      }
      const some = messages.slice(index, index + Math.min(due, framesAtOnce))
      for (const { bytes, seqAt } of some) {
        bytes.writeUInt32BE(from + sent, seqAt + 4)
        sentAt[index++] = Date.now()
        sent += 1
      }
      const chunk = Buffer.concat(some.map(({ bytes }) => bytes))
      if (!socket.write(chunk)) await drainedOrClosed(socket)
      if (socket.destroyed) return sentAt
    }
  }
  return sentAt
}

function drainedOrClosed(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const settle = () => {
      socket.off('drain', settle).off('close', settle)
      resolve()
    }
    socket.on('drain', settle).on('close', settle)
  })
}

function accept(request: string): string {
  const key = /^sec-websocket-key: *(.+)\r$/im.exec(request)?.[1] ?? ''
  const answer = createHash('sha1')
    .update(key + webSocketKey)
    .digest('base64')
  const head = ['HTTP/1.1 101 Switching Protocols', 'Upgrade: websocket', 'Connection: Upgrade']
  return [...head, `Sec-WebSocket-Accept: ${answer}`, '', ''].join('\r\n')
}

async function main(args: string[]): Promise<void> {
  const [path = '', rate = '0', rounds = '1', most = '0', firstPath] = args
  const all = messagesOf(await readFile(path))
  const messages = most === '0' ? all : all.slice(0, Number(most))
  const first = firstPath === undefined ? [] : messagesOf(await readFile(firstPath))
  const program = { first, messages, rate: Number(rate), rounds: Number(rounds) }
  const server = createServer(async (socket) => {
    socket.on('error', () => {}) // The reader has left.
    const [request] = (await once(socket, 'data')) as [Buffer]
    socket.resume()
    socket.write(accept(String(request)))
    process.send?.({ sentAt: await send(socket, program) })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  process.send?.({ address: server.address(), messages: messages.length })
}

if (import.meta.main) await main(process.argv.slice(2))
