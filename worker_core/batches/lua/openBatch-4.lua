--[[
  Begin to submit a batch: what is there of an earlier one with the same id goes.
    KEYS[1] job key
    KEYS[2] requests key
    KEYS[3] items key
    KEYS[4] state key
    ARGV[1] token of this submission
    ARGV[2] how long the state is kept, in milliseconds
    ARGV[3] what the submitter keeps there, as JSON
  Output: 1 open, 0 there is a job of this id
]]
if redis.call("EXISTS", KEYS[1]) == 1 then
  return 0
end
-- Else it has been sent before, and its reply was lost.
if redis.call("HGET", KEYS[4], "submission") ~= ARGV[1] then
  redis.call("UNLINK", KEYS[2], KEYS[3], KEYS[4])
  redis.call("HSET", KEYS[4], "submission", ARGV[1], "status", "validating", "meta", ARGV[3])
  redis.call("PEXPIRE", KEYS[4], ARGV[2])
end
return 1
