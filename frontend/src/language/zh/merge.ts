export const merge = {}
