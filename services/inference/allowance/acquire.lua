-- Take the allowance for as many demands as possible, in the order of the accounts' shares.
--
-- ARGV[1], in addition: `demands` (account_id, weight, tokens, keys, waiting_tokens, waiting_requests), `grants_max`,
-- `is_waiting`, `replica`, `lifetime`.
-- Returns JSON: [[[position, key], …], seconds, is behind]. Positions begin at 0. An account that asks and is not among
-- the demands is not passed over: the last member is then 1, and the replica asks again soon.
local POLL_SECONDS, NEXT_SECONDS, ACCOUNTS_MAX, LEFT_STEPS = 0.025, 0.001, 10000, 20

local is_asking, own, starts = {}, {}, {}
for _, demand in ipairs(ask.demands) do
    own[demand.account_id] = true
end
local first_other, poll_seconds
for _, entry in ipairs(waiting_entries()) do
    if entry.is_asking then
        is_asking[entry.account] = true
        if not own[entry.account] then
            local start = starts[entry.account] or start_of(entry.account, true)
            starts[entry.account] = start
            if not first_other or start < first_other then
                first_other = start
                -- This replica has further demands, which come next.
                poll_seconds = entry.replica == ask.replica and NEXT_SECONDS or POLL_SECONDS
            end
        end
    end
end

for position, demand in ipairs(ask.demands) do
    demand.position = position - 1
    demand.start = start_of(demand.account_id, is_asking[demand.account_id])
    if ask.is_waiting then
        enter(demand, true)
        set_place(demand.account_id, demand.start)
    end
end
table.sort(ask.demands, function(a, b)
    if a.start == b.start then
        return a.position < b.position
    end
    return a.start < b.start
end)

local grants, seconds, is_behind = {}, 0, 0
for _, demand in ipairs(ask.demands) do
    if #grants >= ask.grants_max then
        break
    end
    -- Passing an account by less than one request saves a round of polls, and the order evens it out.
    if first_other and first_other + demand.tokens / demand.weight < demand.start then
        seconds, is_behind = poll_seconds, 1
        break
    end
    local best, best_left, soonest
    for _, key in ipairs(demand.keys) do
        local until_usable, left = seconds_until(key, demand.tokens)
        left = math.floor(left * LEFT_STEPS + 0.5)
        if until_usable == 0 and (not best or left > best_left) then
            best, best_left = key, left
        end
        soonest = math.min(soonest or until_usable, until_usable)
    end
    if not best then
        seconds = soonest or POLL_SECONDS
        break
    end
    take(best, demand.tokens)
    set('virtual', math.max(state.virtual or 0, demand.start))
    set_place(demand.account_id, demand.start + demand.tokens / demand.weight)
    if ask.is_waiting and demand.waiting_requests <= 1 then
        leave(demand.account_id)
    end
    redis.call('ZADD', served_key, now + ask.windows[1] * ACTIVE, demand.account_id .. ' ' .. demand.weight)
    grants[#grants + 1] = {demand.position, best}
end
if #grants > 0 then
    redis.call('ZREMRANGEBYSCORE', served_key, '-inf', now)
    redis.call('EXPIRE', served_key, ttl)
end
if #grants > 0 and redis.call('ZCARD', order_key) > ACCOUNTS_MAX then
    redis.call('ZREMRANGEBYSCORE', order_key, '-inf', string.format('%.17g', state.virtual))
end
save()
-- An empty table would be encoded as an object.
return '[' .. (#grants > 0 and cjson.encode(grants) or '[]') .. ',' .. string.format('%.6f', seconds) .. ',' .. is_behind .. ']'
