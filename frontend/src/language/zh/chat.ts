export const chat = {
  'chat.new': '新对话',
  'chat.untitled': '未命名'
}
