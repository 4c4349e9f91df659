#!/usr/bin/env node
/** The entry point of `sluice`. */
import { sluice } from './sluice.ts'

await sluice(process.argv.slice(2))
