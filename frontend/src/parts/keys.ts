/** What keys mean where text is written. */

/** Whether Enter was pressed to send, not to choose a character of an input method. */
export function sends(event: KeyboardEvent): boolean {
  // Safari ends the composition first, and gives away by the key's old code whose Enter it was.
  return event.key === 'Enter' && !event.shiftKey && !event.isComposing && event.keyCode !== 229
}
