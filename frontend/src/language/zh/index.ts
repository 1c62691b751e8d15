/** Chinese: one file a page; both languages hold the same keys, which the type check proves. */
import { chat } from './chat'
import { compare } from './compare'
import { data } from './data'
import { merge } from './merge'
import { models } from './models'
import { runs } from './runs'
import { shell } from './shell'
import { teach } from './teach'
import { train } from './train'

export const zh = { ...shell, ...chat, ...compare, ...data, ...train, ...runs, ...teach, ...merge, ...models }
