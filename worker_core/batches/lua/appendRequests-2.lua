--[[
  Append items to the requests of a batch that is being submitted.
    KEYS[1] requests key
    KEYS[2] state key
    ARGV[1] token of the submission
    ARGV[2] how many items are there already
    ARGV[3] how long all is kept, in milliseconds
    ARGV    the items
  Output: 1 appended, or there already, 0 the batch is another submission's by now
]]
if redis.call("HGET", KEYS[2], "submission") ~= ARGV[1] then
  return 0
end
-- Else it has been sent before, and its reply was lost.
if redis.call("LLEN", KEYS[1]) == tonumber(ARGV[2]) then
  for i = 4, #ARGV do
    redis.call("RPUSH", KEYS[1], ARGV[i])
  end
end
redis.call("PEXPIRE", KEYS[1], ARGV[3])
redis.call("PEXPIRE", KEYS[2], ARGV[3])
return 1
