export const chat = {
  'chat.new': 'New chat',
  'chat.untitled': 'Untitled'
}
