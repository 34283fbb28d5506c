"""In asyncio: ``await handle``, many at once, cancelled tasks, and no loop that is blocked."""

import asyncio

import pytest

from siteward import JobState, SitewardError

from .fake import job, until


def test_awaiting_a_handle_gives_its_result(place):
    """Also twice, and when the job has ended already."""

    async def main():
        handle = place.site().launch(job(id="a"))
        asyncio.get_running_loop().call_soon(place.end, "a")
        assert (await handle).state is JobState.SUCCEEDED
        assert (await handle) == handle.wait(0)

    asyncio.run(main())


def test_many_jobs_are_awaited_at_once(place):
    """gather gives each its own result, while the loop does other things."""

    async def main():
        site = place.site()
        handles = [site.launch(job(id=f"j{number}")) for number in range(20)]

        async def end():
            for number in reversed(range(20)):
                await asyncio.to_thread(place.end, f"j{number}", exit_code=number)

        results, _ = await asyncio.gather(asyncio.gather(*handles), end())
        assert [result.exit_code for result in results] == list(range(20))

    asyncio.run(main())


def test_cancelling_a_task_leaves_the_job_alone(place):
    """Nor does a timeout touch it; others still have its result."""

    async def main():
        handle = place.site().launch(job(id="a"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handle, 0.01)
        task = asyncio.ensure_future(handle)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert place.platform.get("a")["stops"] == []
        await asyncio.to_thread(place.end, "a", exit_code=3)
        assert (await handle).exit_code == 3

    asyncio.run(main())


def test_a_site_that_is_closed_wakes_who_awaits(place):
    """With the error that says so."""

    async def main():
        site = place.site()
        handle = site.launch(job(id="a"))
        task = asyncio.ensure_future(handle)
        await asyncio.sleep(0)
        await asyncio.to_thread(site.close)
        with pytest.raises(SitewardError, match="goes on"):
            await task

    asyncio.run(main())


def test_a_job_of_another_site_object_can_be_awaited(place):
    """It is driven elsewhere; the loop is not blocked meanwhile."""

    async def main():
        place.site().launch(job(id="a"))
        handle = place.site().attach("a")
        task = asyncio.ensure_future(handle)
        await asyncio.sleep(0.01)
        assert not task.done()
        await asyncio.to_thread(place.end, "a", exit_code=3)
        assert (await task).exit_code == 3

    asyncio.run(main())


def test_a_loop_that_is_gone_harms_nobody(place):
    """The program ended its loop while the job ran on."""

    async def main(handle):
        tasks.append(asyncio.ensure_future(handle))
        await asyncio.sleep(0)

    tasks = []
    handle = place.site().launch(job(id="a"))
    asyncio.run(main(handle))
    place.end("a", exit_code=3)
    assert handle.wait(20).exit_code == 3
    until(handle.done)
