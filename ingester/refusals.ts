/** What a host's refusals come to: a sample of them in the log, and one warning while they are many. */
import type { Logger } from '../shared/log.ts'

/** The share is looked at after so many messages, or after so long when there were some. */
const blockMessages = 1_000
const blockMs = 60_000
const fewMessages = 50
/** Of an honest relay one in some thousand is refused. */
const alarmShare = 0.05
/** Of each reason one line in this time; there are some thirty reasons. */
const sampleEveryMs = 10_000

export interface Refusals {
  taken(): void
  /** `fields` tell which message it was. */
  refused(reason: string, fields: Readonly<Record<string, unknown>>): void
}

export function createRefusals(log: Logger, now: () => number = Date.now): Refusals {
  const sampled = new Map<string, { at: number; since: number }>()
  let block = { began: now(), messages: 0, reasons: new Map<string, number>() }
  let alarmed = false

  const judge = () => {
    const { messages, reasons, began } = block
    const isOver =
      messages >= blockMessages || (messages >= fewMessages && now() - began >= blockMs)
    if (!isOver) return
    block = { began: now(), messages: 0, reasons: new Map() }
    const refused = [...reasons.values()].reduce((sum, count) => sum + count, 0)
    const share = refused / messages
    const [reason] = [...reasons].reduce((most, one) => (one[1] > most[1] ? one : most), ['', 0])
    const fields = { share: Math.round(share * 1_000) / 1_000, messages, reason }
    if (share >= alarmShare && !alarmed) {
      log.warn(
        fields,
        'many messages of this host are refused: its reason above all others is told',
      )
    } else if (share < alarmShare && alarmed) {
      log.info(fields, 'few messages of this host are refused again')
    }
    alarmed = share >= alarmShare
  }

  return {
    taken() {
      block.messages += 1
      judge()
    },
    refused(reason, fields) {
      const sample = sampled.get(reason) ?? { at: Number.NEGATIVE_INFINITY, since: 0 }
      sample.since += 1
      sampled.set(reason, sample)
      if (now() - sample.at >= sampleEveryMs) {
        log.info({ ...fields, reason, count: sample.since }, 'a message was refused')
        sample.at = now()
        sample.since = 0
      }
      block.messages += 1
      block.reasons.set(reason, (block.reasons.get(reason) ?? 0) + 1)
      judge()
    },
  }
}
