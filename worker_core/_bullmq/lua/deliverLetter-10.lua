--[[
  Add a dead letter where its entry in the outbox still stands, and take the entry out: both or
  neither. So a letter that somebody has dealt with meanwhile does not come back.
    KEYS[1] letters wait key
    KEYS[2] letters paused key
    KEYS[3] letters meta key
    KEYS[4] letters id key
    KEYS[5] letters completed key
    KEYS[6] letters delayed key
    KEYS[7] letters active key
    KEYS[8] letters events key
    KEYS[9] letters marker key
    KEYS[10] outbox key
    ARGV[1] who the letter is, packed, as addStandardJob takes it
    ARGV[2] its options, packed
    ARGV[3] the entry's field; its value is the letter's data
  Output: the letter's id, or 0 where there is no such entry
]]
local data = redis.call("HGET", KEYS[10], ARGV[3])
if not data then
  return 0
end
local function add(KEYS, ARGV)
  --- @include "addStandardJob"
end
local added = add(KEYS, { ARGV[1], data, ARGV[2] })
redis.call("HDEL", KEYS[10], ARGV[3])
return added
